"""What timm's releases show, compared with the ledger: their fixes, and every family and release that an entry claims.

In: every release, judged on the same cases. Out: docs/history.md, docs/claims.md, fixtures/claims.json.
May import: engine, runner and everything below them.
"""
