"""Measures how much the suite catches: a loader is changed in a few thousand small ways, and each change must be detected.

In: a target. Out: mutants with their fates, a score.
May import: report and everything below it.
"""
