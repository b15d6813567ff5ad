"""Cases drawn from a seed: strategies, pinned examples, the catalogue of registered models.

In: a family, a profile and a seed. Out: the same cases on every machine.
May import: cases, families.
"""
