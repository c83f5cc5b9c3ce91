"""The commands beside coordinating: one module each, named as the command, with ``run(argv)``.

``coordinator_worker.cli.COMMANDS`` lists them; a module is imported when its command is called.
"""
