"""A user's own checkpoint, compared with the reference tensor by tensor.

In: a checkpoint file and a model's name. Out: what a target makes of it, and what to do.
May import: report and everything below it.
"""
