"""The suite under pytest: the collected tests, and ``vit_conformance``, which makes a test of somebody's own loader.

In: pytest's options, or a function. Out: one test for each family and invariant.
May import: engine and everything below it.
"""
