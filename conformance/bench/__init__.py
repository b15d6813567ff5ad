"""The benchmark, ``python -m conformance.bench``: what the harness costs, how fast the reference is, how a run grows."""
