"""What is judged, and on which cases: the part of a request that every way into the suite has in common."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Selection(msgspec.Struct, frozen=True):
    """Families, invariants and draws, as ``run``, the pytest plugin and ``run_conformance`` are asked for them.

    families    names; none for all
    invariants  names; none for all
    profile     how many cases are drawn: smoke, gate or deep
    seed        which cases are drawn
    device      cpu or cuda
    focused     whether every family draws a whole profile of cases, however much code it shares with others
    ledger      a file of known bugs, ``none``, or None for the project's
    """

    families: tuple[str, ...] = ()
    invariants: tuple[str, ...] = ()
    profile: str = "gate"
    seed: int = 0
    device: str = "cpu"
    focused: bool = False
    ledger: str | None = None


def names(given: Iterable[str] | None) -> tuple[str, ...]:
    """Names as a selection holds them: none for None, one for a single text."""
    return (given,) if isinstance(given, str) else tuple(given or ())
