"""The suite as a function: judges a loader, or targets, without pytest and without the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping

from .cases.profiles import profile as profile_of
from .cases.selection import Selection
from .engine.session import Session
from .errors import UserError, choose
from .families import FAMILIES
from .invariants import INVARIANTS
from .ledger.entries import DEFAULT_LEDGER, load_ledger
from .report.publish import conclude
from .results.records import Footer, Record, Results
from .runner.plan import Plan
from .runner.run import run
from .targets.loader import Convert
from .targets.target import parse_target


def run_conformance(
    loader: Convert | str | Iterable[str],
    *,
    families: Iterable[str] | None = None,
    invariants: Iterable[str] | None = None,
    profile: str = "gate",
    seed: int = 0,
    device: str = "cpu",
    known_failures: Mapping[str, str] | None = None,
    timm: str | None = None,
    ledger: str | None = None,
    jobs: int | None = None,
    watch: Callable[[Record], None] = lambda record: None,
) -> Results:
    """Judge a loader and return every verdict; the footer's exit code is that of ``timm-conformance run``.

    loader          a function ``(checkpoint, model) -> state_dict``, judged in this process; or targets such as
                    ``"timm==1.0.31"``, one or several, each judged in separate processes
    families        names of families, or None for all; each named family draws a whole profile of cases
    invariants      names of invariants, or None for all
    profile, seed   how many cases are drawn, and which
    device          cpu or cuda
    known_failures  for a function: ``FAMILY:INVARIANT`` or a fingerprint, with wildcards, to the reason
    timm            for a function: the timm that builds the destination models, a version or ``"installed"``; by default
                    the installed timm, or the newest release that the gate runs on if none is installed
    ledger          for targets: a file of known bugs, or ``"none"``; by default the project's
    jobs            for targets: worker processes at the same time, by default as many as cores
    watch           called with every record as it arrives

    Raises :class:`timm_conformance.errors.UserError`, in one line, for an unknown name or target, or an unavailable timm.
    """
    started = time.monotonic()
    selection = Selection(
        families=tuple(choose("family", families or (), FAMILIES)),
        invariants=tuple(choose("invariant", invariants or (), INVARIANTS)),
        profile=profile,
        seed=seed,
        device=device,
        focused=bool(families),
        ledger=ledger,
    )
    if callable(loader):
        if ledger or jobs:
            raise UserError(
                "ledger and jobs go with targets; a function is judged in this process, with known_failures"
            )
        targets, known_bugs = [], load_ledger(DEFAULT_LEDGER)
        collected = _judge(loader, timm, known_failures, watch, selection)
    else:
        if known_failures or timm:
            raise UserError("known_failures and timm go with a function; targets have a ledger, and name their timm")
        targets = [loader] if isinstance(loader, str) else list(dict.fromkeys(loader))
        if not targets:
            raise UserError("no target is given; pass for example 'timm==1.0.31', or a function")
        for target in targets:
            parse_target(target)
        profile_of(profile)
        known_bugs = load_ledger(ledger or DEFAULT_LEDGER)
        plan = Plan(tuple(targets), selection, jobs=jobs or os.cpu_count() or 1)
        collected = run(plan, watch)
    collected.add(Footer(round(time.monotonic() - started, 3)))
    found, _, _ = conclude([collected], known_bugs, targets)
    return found


def _judge(
    loader: Convert,
    timm: str | None,
    known_failures: Mapping[str, str] | None,
    watch: Callable[[Record], None],
    selection: Selection,
) -> Results:
    """Judge a function in this process."""
    collected = Results()

    def record(found: Record) -> None:
        collected.add(found)
        watch(found)

    session = Session.on(loader, timm, selection, known_failures=known_failures, record=record)
    session.start()
    for family in session.families:
        session.explore(family)
    return collected
