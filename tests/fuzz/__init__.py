"""A fuzzer of our own code: whatever is in a file somebody hands us, no traceback, no hang, no memory blow-up.

``python -m tests.fuzz`` looks for such a file, ``python -m tests.fuzz --again FOLDER`` shows what one does.
"""
