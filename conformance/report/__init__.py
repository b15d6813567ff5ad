"""Everything that is written or shown about results: terminal, Markdown, HTML, JUnit.

In: records and a ledger. Out: text and files.
May import: runner and everything below it, without torch.
"""
