"""Known bugs of timm with their witnesses, and a repository's own known failures.

In: ``ledger.toml``, witness files, records. Out: entries, witnesses, records settled by them.
May import: cases, families, results.
"""
