"""Worker processes: targets judged side by side, hunts, shards, resumed runs.

In: a plan. Out: the records of all workers.
May import: engine and everything below it.
"""
