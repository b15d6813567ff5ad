"""One case on one loader: what a correct load returns, what this one returned, and how far off it may be.

In: a family, a case and a loader. Out: a trial that invariants ask, problems, a sketch of the result.
May import: results and everything below targets.
"""
