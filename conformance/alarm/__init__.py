"""The unknown-format alarm: which checkpoint formats a release knows and no family covers.

In: a release's source. Out: a line for each string that it tests and no generated key has.
May import: checkpoints, drawing, targets.
"""
