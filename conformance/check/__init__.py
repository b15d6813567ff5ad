"""The command ``check``: compares a user's own checkpoint with the reference, tensor by tensor and by its output.

In: a checkpoint file and a model's name. Out: what a target makes of it, and what to do.
May import: report and everything below it.
"""
