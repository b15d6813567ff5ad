"""Golden vectors: tiny checkpoints with what a correct loader makes of them, for loaders in any language.

In: families. Out: ``fixtures/vectors``.
May import: report and everything below it.
"""
