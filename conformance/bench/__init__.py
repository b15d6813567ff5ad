"""The benchmark, ``python -m timm_conformance.bench``: what the harness costs, how fast the reference is, how a run grows.

In: targets. Out: tables of measured times, ``bench.json`` and ``bench.md``.
May import: report and everything below it.
"""
