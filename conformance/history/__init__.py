"""The fixes that timm's releases show, compared with the ledger.

In: every release, judged on the same cases. Out: docs/history.md.
May import: engine, runner and everything below them.
"""
