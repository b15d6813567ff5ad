"""Settles results by the ledger: sorts records, marks stale entries, finds value changes."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..families import FAMILIES
from ..results.changes import changes
from ..results.records import Results, TargetError, Verdict
from .entries import Entry, Ledger


def settle_results(results: Results, known_bugs: Ledger, targets: Sequence[str] = ()) -> Results:
    """Sort the results, and add what depends on all of them: stale ledger entries and value changes.

    Targets come in the given order, others after them in order of appearance. Families and invariants come in the order of
    their registries.
    """
    order = list(dict.fromkeys((*targets, *results.targets)))
    stale = [
        (witness.target, entry)
        for witness in results.witnesses
        if witness.replay == "fixed" and not witness.expected and (entry := known_bugs.entry(witness.id)) is not None
    ]
    invariants = list(dict.fromkeys(i for h in results.headers for i in h.invariants))
    families = list(FAMILIES)
    witnesses = sorted(results.witnesses, key=lambda w: (order.index(w.target), _ledger_order(w.id, known_bugs)))
    loads = sorted(results.loads, key=lambda r: (order.index(r.target), families.index(r.family)))
    verdicts = sorted(
        (_mark_stale(v, stale) for v in results.verdicts),
        key=lambda v: (order.index(v.target), families.index(v.family), _index(v.invariant, invariants)),
    )
    headers = sorted(results.headers, key=lambda h: order.index(h.target))
    errors = [TargetError(t, results.errors[t]) for t in order if t in results.errors]
    changed = sorted(changes(results), key=lambda c: (order.index(c.target), families.index(c.family)))
    return Results([*headers, *errors, *witnesses, *loads, *verdicts, *changed, *results.rounds])


def _ledger_order(name: str, known_bugs: Ledger) -> tuple[int, str]:
    return _index(name, [e.id for e in known_bugs.entries]), name


def _index(name: str, names: list[str]) -> int:
    return names.index(name) if name in names else len(names)


def _mark_stale(verdict: Verdict, stale: list[tuple[str, Entry]]) -> Verdict:
    """``fixed`` where the ledger says that an invariant fails, and the witness shows that it no longer does.

    A verdict with a reason was settled by the owner's own list (:mod:`timm_conformance.ledger.known_failures`) and stays.
    """
    if verdict.verdict not in ("pass", "fixed") or verdict.reason:
        return verdict
    claimed = any(t == verdict.target and e.claims(verdict.family, verdict.invariant) for t, e in stale)
    return replace(verdict, verdict="fixed" if claimed else "pass")
