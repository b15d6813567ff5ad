"""Compares the verdicts and witnesses of two environments.

The library of one environment may have a fault that the library of the other has not. A probe then gives another answer in each,
and the ledger's entries with that probe are left out of both sides before they are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from timm_conformance.ledger.entries import Ledger
from timm_conformance.probes.registry import faults
from timm_conformance.results.records import Results, Verdict, Witness


class Difference(NamedTuple):
    """One verdict or witness that differs. ``probes`` names the probes that explain it; without one, nothing does."""

    text: str
    probes: tuple[str, ...] = ()


def differing_probes(baseline: Results, other: Results) -> set[str]:
    """The probes that find a fault in one environment and not in the other."""
    return {*faults(baseline.probes)} ^ {*faults(other.probes)}


def differences(baseline: Results, other: Results, known_bugs: Ledger) -> Iterator[Difference]:
    """What differs in the other environment, the explained differences with their probes."""
    differing = differing_probes(baseline, other)
    probes = {e.id: e.probe for e in known_bugs.entries if e.probe in differing}
    verdicts = [{(v.target, v.family, v.invariant): v for v in r.verdicts} for r in (baseline, other)]
    for cell in dict.fromkeys((*verdicts[0], *verdicts[1])):
        before, after = (v.get(cell) for v in verdicts)
        if _told(before, {}) != _told(after, {}):
            explained = _told(before, probes) == _told(after, probes)
            yield Difference(
                f"{' '.join(cell)}: {_name(before)}, here {_name(after)}", _of(before, after, probes, explained)
            )
    witnesses = [{(w.target, w.id): w for w in r.witnesses} for r in (baseline, other)]
    for named in dict.fromkeys((*witnesses[0], *witnesses[1])):
        first, second = (w.get(named) for w in witnesses)
        if _replay(first) != _replay(second):
            found = (probes[named[1]],) if named[1] in probes and first and second else ()
            yield Difference(f"{named[0]} witness {named[1]}: {_replay(first)}, here {_replay(second)}", found)


def _told(verdict: Verdict | None, without: Mapping[str, str]) -> tuple[str, frozenset[str]]:
    """A verdict and the known bugs that show in it, as if the entries of ``without`` had not shown."""
    if verdict is None:
        return "absent", frozenset()
    known = frozenset(verdict.known)
    rest = known - without.keys()
    return ("pass" if verdict.verdict == "known" and known and not rest else verdict.verdict), rest


def _of(before: Verdict | None, after: Verdict | None, probes: Mapping[str, str], explained: bool) -> tuple[str, ...]:
    """The probes of the entries that show on one side, where they explain the difference."""
    shown = {entry for v in (before, after) if v for entry in v.known}
    return tuple(sorted({probes[entry] for entry in shown & probes.keys()})) if explained else ()


def _name(verdict: Verdict | None) -> str:
    if verdict is None:
        return "absent"
    failures = ", ".join(f.fingerprint for f in verdict.failures)
    return " ".join(filter(None, (verdict.verdict, *sorted(verdict.known), failures and f"({failures})")))


def _replay(witness: Witness | None) -> str:
    return (
        "absent"
        if witness is None
        else witness.replay
        if witness.expected
        else f"{witness.replay}, not as the ledger says"
    )
