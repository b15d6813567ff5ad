"""One case on one loader: what a correct load returns, what this one returned, and how far off it may be.

In: a family, a case and a loader. Out: a trial with the loads and bounds that invariants use; problems; a sketch of the result.
May import: targets and everything below it.
"""
