"""A selection: which families and invariants a run judges, and which cases it draws."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Selection(msgspec.Struct, frozen=True):
    """The options that ``run``, the pytest plugin and ``run_conformance`` have in common.

    families    names; empty for all
    invariants  names; empty for all
    profile     how many cases are drawn: smoke, gate or deep
    seed        which cases are drawn
    device      cpu or cuda
    focused     whether every family draws a whole profile of cases, also one that shares its code with others
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
    """Names as a tuple: empty for None, one name for a single string."""
    return (given,) if isinstance(given, str) else tuple(given or ())
