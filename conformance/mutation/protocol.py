"""The request of the command to a target's worker, and the worker's messages, as JSON. Nothing here needs torch."""

from __future__ import annotations

import msgspec

from .score import Judged


class Request(msgspec.Struct, frozen=True):
    """What to mutate.

    ``functions`` are glob patterns, ``sample`` is how many of their mutants to judge (0: all), ``jobs`` how many at a time.
    Mutants that are listed as equivalent are judged on a few cases, or on every case if ``listed``. ``earlier`` is a file of
    judged mutants, or empty; of these, only the requested ones that survived are judged again.
    """

    target: str
    families: list[str]
    functions: list[str]
    profile: str
    seed: int
    sample: int
    jobs: int
    listed: bool
    ledger: str
    earlier: str = ""


class WorkerMessage(msgspec.Struct, frozen=True):
    """A line of the worker. The first has the number of mutants of each function and of cases; each other a judged mutant.

    A mutant that survives a first judgement on a few cases is sent again after the last one, judged on all cases.
    """

    functions: dict[str, int] = {}
    cases: int = 0
    judged: Judged | None = None
