"""Judging and exploring: one invariant on one case, one family on one loader, one target in this process.

In: a target, and what is asked of it. Out: records.
May import: invariants, trials, targets, drawing, ledger, results.
"""
