"""The loader under test: the target language, side-loaded releases, destination models.

In: a target such as ``timm==1.0.31``, a case. Out: what its loader returns for a checkpoint.
May import: cases, families, checkpoints, drawing, reference. Only this package and code that runs in a worker import timm.
"""
