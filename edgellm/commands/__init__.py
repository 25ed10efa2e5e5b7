"""The commands of ``edgellm``: one file a command, found by its name.

A file has HELP (one line), EXAMPLE, ``add_arguments(parser)`` and ``run(options)``, which returns
the exit status. What is heavy is imported inside ``run``.
"""
