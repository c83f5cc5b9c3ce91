"""The commands beside taking part: one module each, named as the command, with ``run(argv)``.

``client_worker.cli.COMMANDS`` lists them; a module is imported when its command is called.
"""
