"""Resumes a run: which results of an earlier run are still valid, and what is left to do."""

from __future__ import annotations

import dataclasses

from msgspec.structs import replace

from ..engine.digests import source_digest, suite_digest
from ..errors import UserError
from ..ledger.entries import Ledger
from ..results.merging import merge_results
from ..results.records import Header, Loads, Results, Verdict, Witness
from .plan import Plan


def finished(earlier: Results, plan: Plan, known_bugs: Ledger, ledger: str) -> Results:
    """The results of families that an earlier run of this suite judged completely, on the plan's targets and cases.

    Families with errors are judged again, because the cause may be gone. Results of a hunt are not used: they are sums over
    seeds, and the last round may be cut off. ``ledger`` is the plan's ledger file.
    """
    suite, wanted = suite_digest(ledger), _invariants(plan)
    headers = [h for h in earlier.headers if h.target in plan.targets and _same_run(h, plan, suite)]
    if not headers or earlier.rounds:
        return Results()
    kept: list[Header] = []
    done: set[tuple[str, str]] = set()
    for header in headers:
        families = [f for f in header.families if _judged(earlier, header.target, f) >= wanted]
        done.update((header.target, f) for f in families)
        kept.append(replace(header, families=families))
    records = [r for r in earlier.records if isinstance(r, Loads | Verdict) and (r.target, r.family) in done]
    replayed = [w for w in earlier.witnesses if w.replay != "error" and (w.target, _family_of(w, known_bugs)) in done]
    return merge_results([Results([*(h for h in kept if h.families), *replayed, *records])])


def remaining(plan: Plan, done: Results) -> Plan:
    """The plan without the families that are done."""
    over = {(v.target, v.family) for v in done.verdicts}
    shares = {t: tuple(f for f in plan.families_of(t) if (t, f) not in over) for t in plan.targets}
    left = {t: families for t, families in shares.items() if families}
    return dataclasses.replace(plan, targets=tuple(left), shares=left)


def _same_run(header: Header, plan: Plan, suite: str) -> bool:
    drawn = (header.profile, header.seed, header.focused, header.device)
    chosen = plan.selection
    asked = (chosen.profile, chosen.seed, chosen.focused, chosen.device)
    return header.suite == suite and header.source == source_digest(header.target) and drawn == asked


def _invariants(plan: Plan) -> set[str]:
    from ..invariants import INVARIANTS

    return set(plan.selection.invariants or INVARIANTS)


def _judged(results: Results, target: str, family: str) -> set[str]:
    return {v.invariant for v in results.of(target, family) if v.verdict != "error"}


def _family_of(witness: Witness, known_bugs: Ledger) -> str:
    try:
        return known_bugs.witness(witness.id).case.family
    except UserError:  # a file that is gone
        return ""
