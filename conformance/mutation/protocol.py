"""What the command asks of a target's worker, and what the worker tells it, as JSON. Nothing here needs torch."""

from __future__ import annotations

import msgspec

from .score import Judged


class Request(msgspec.Struct, frozen=True):
    """What to mutate.

    ``functions`` are glob patterns, ``sample`` is how many of their mutants to judge (0: all), ``jobs`` how many at a time.
    Those listed as equivalent are put to a few cases, or to every one as the others are where ``listed``. ``earlier`` is a
    file of judged mutants, empty for none: of those there only what is asked for and survived is judged again.
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


class Told(msgspec.Struct, frozen=True):
    """A line of the worker: once, how many mutants each function has and how many cases there are; then a judged mutant.

    One that survives a first judgement on a few cases is told again after the last, on all.
    """

    functions: dict[str, int] = {}
    cases: int = 0
    judged: Judged | None = None
