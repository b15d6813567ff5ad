"""Results as values: records, and what can be computed from records alone.

In: records of a run. Out: merged records, value changes, differences, exit codes, bisections.
May import: cases, families.
"""
