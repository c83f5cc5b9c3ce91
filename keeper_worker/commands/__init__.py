"""The commands beside keeping: one module each, named as the command, with ``run(argv)``.

``keeper_worker.cli.COMMANDS`` lists them; a module is imported when its command is called.
"""
