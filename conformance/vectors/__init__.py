"""Golden vectors: tiny checkpoints with what a correct loader makes of them, for loaders in any language.

``choosing`` says which cases, ``making`` turns them into files, ``folder`` writes and compares these, ``schema`` is what the
JSON says. They are stored in ``fixtures/vectors/``; docs/vectors.md is for those who use them.
"""
