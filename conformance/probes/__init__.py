"""Probes: each runs a library alone on a tiny input and compares the result with the closed form.

In: a device. Out: which known faults the installed libraries have.
May import: nothing of this package. Each probe is a script that runs by itself.
"""
