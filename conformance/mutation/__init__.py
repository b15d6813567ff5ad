"""How much the suite catches: a loader is broken in a few thousand small ways, and each must be noticed.

A mutant is one changed place in one of the loader's functions. It is killed when the promises, on the cases of a profile,
tell it from the release it was made of; what survives is a hole in the suite, or changes nothing that a loader promises.
R. DeMillo, R. Lipton, F. Sayward, "Hints on Test Data Selection", 1978.
"""
