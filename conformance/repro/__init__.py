"""Standalone scripts that show one failure with torch and timm alone; each is run before it is handed out.

In: a witness or an entry of the ledger. Out: a script, and the text of an upstream issue.
May import: report and everything below it.
"""
