"""The command line: thin commands over plain functions.

In: arguments. Out: reports and an exit code.
May import: everything; torch only inside a command that needs it.
"""
