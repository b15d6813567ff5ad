"""Holds the ledger to what was seen: each entry, in each family it names, on each release of its range.

A range claims every family and release in it, and a failure that a claim covers is called known. So a claim that no case shows
would hide a new bug. The gate's cases show most claims. Where they do not, :mod:`timm_conformance.history.search` looks for a
case. What was seen is stored in ``fixtures/claims.json``, to which the tests hold the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from packaging.version import Version

from ..cases.case import Case
from ..cases.fixtures import FIXTURES
from ..errors import UserError
from ..families import FAMILIES
from ..invariants import INVARIANTS
from ..ledger.entries import Entry, Ledger
from ..results.records import UNREADABLE
from .observations import Observations

CLAIMS = FIXTURES / "claims.json"


class Claim(NamedTuple):
    """A ledger entry, by its id, in one family on one release."""

    entry: str
    family: str
    release: str


class Evidence(NamedTuple):
    """What shows a claim: a failure, ``invariant:kind:tensor``, and the condition of the entry's regime that its case meets."""

    failure: str
    regime: str


# What was seen of each claim.
Seen = dict[Claim, set[Evidence]]
# Cases by entry and family.
Cases = dict[tuple[str, str], list[Case]]


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The releases on which one failure showed an entry in one family, as pairs of the first and the last of a row."""

    failure: str
    regime: str
    releases: list[tuple[str, str]]


class Observed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stored file.

    releases  the releases that were judged, oldest first
    shown     what showed each entry in each family
    unseen    signatures and conditions of each entry that nothing seen met
    cases     the cases that showed an entry in a family where the gate's cases did not
    """

    releases: list[str]
    shown: dict[str, dict[str, list[Shown]]]
    unseen: dict[str, list[str]]
    cases: dict[str, dict[str, list[Case]]]


def is_held(entry: Entry) -> bool:
    """Whether a run of these releases on a CPU can show an entry. The range of a dependency's fault is not about releases."""
    return entry.kind != "dependency" and entry.regime != ["off-cpu"]


def claims(known_bugs: Ledger, versions: Sequence[str]) -> Iterator[Claim]:
    """Every claim of the ledger about these releases: the families that an entry names and that a release knows."""
    for entry in filter(is_held, known_bugs.entries):
        for version in map(Version, versions):
            if entry.applies_to(version):
                here = entry.on(version)
                names = (name for name, family in FAMILIES.items() if family.supported_by(version))
                yield from (Claim(entry.id, name, str(version)) for name in names if _may_show(here, name))


def _may_show(entry: Entry, family: str) -> bool:
    """Whether an entry names a family, and an invariant that it names judges the family."""
    return any(entry.claims(family, i.name) and i.concerns(FAMILIES[family]) for i in INVARIANTS.values())


def seen_in(known_bugs: Ledger, observations: Mapping[str, Observations]) -> Seen:
    """What the gate's cases show of the claims about the releases that judged them."""
    seen: Seen = {}
    for version, families in observations.items():
        active = [entry for entry in known_bugs.active(Version(version)) if is_held(entry)]
        for family, cases in families.items():
            for case in cases:
                for invariant, problems in case.failed.items():
                    for kind, tensor in problems:
                        for entry in active:
                            if entry.covers(family, invariant, kind, tensor, case.regimes):
                                found = seen.setdefault(Claim(entry.id, family, version), set())
                                failure = f"{invariant}:{kind}:{tensor}"
                                found |= {Evidence(failure, regime) for regime in entry.conditions(case.regimes)}
    return seen


def stored(known_bugs: Ledger, seen: Seen, versions: Sequence[str], cases: Cases) -> Observed:
    """What was seen in short: for each entry and family the fewest failures that show it on all releases where it was seen."""
    on: dict[tuple[str, str], dict[Evidence, set[str]]] = {}
    for claim, some in seen.items():
        for evidence in some:
            on.setdefault((claim.entry, claim.family), {}).setdefault(evidence, set()).add(claim.release)
    shown: dict[str, dict[str, list[Shown]]] = {}
    for (name, family), releases in sorted(on.items()):
        found = [Shown(*evidence, rows(some, versions)) for evidence, some in _fewest(releases)]
        shown.setdefault(name, {})[family] = found
    kept: dict[str, dict[str, list[Case]]] = {}
    for (name, family), found_cases in sorted(cases.items()):
        kept.setdefault(name, {})[family] = found_cases
    unseen = {entry.id: _unseen(entry, seen) for entry in filter(is_held, known_bugs.entries)}
    return Observed(list(versions), shown, {name: lines for name, lines in unseen.items() if lines}, kept)


def _unseen(entry: Entry, seen: Seen) -> list[str]:
    """The signatures and the conditions of an entry that nothing seen met in any family or release."""
    found = {evidence for claim, some in seen.items() if claim.entry == entry.id for evidence in some}
    signatures = [s for s in entry.shows if not any(fnmatchcase(evidence.failure, s) for evidence in found)]
    return signatures + [c for c in entry.regime if not any(evidence.regime == c for evidence in found)]


def _fewest(releases: Mapping[Evidence, set[str]]) -> Iterator[tuple[Evidence, set[str]]]:
    """Pieces of evidence that together cover all releases: first the one that covers most of what is left."""
    left = set().union(*releases.values())
    while left:
        best = max(sorted(releases), key=lambda evidence: len(releases[evidence] & left))
        yield best, releases[best]
        left -= releases[best]


def rows(some: Iterable[str], versions: Sequence[str]) -> list[tuple[str, str]]:
    """Releases as rows of neighbours in ``versions``: the first and the last of each."""
    wanted, found = set(some), list[tuple[str, str]]()
    for before, version in zip(("", *versions), versions):
        if version in wanted:
            first = found.pop()[0] if found and found[-1][1] == before else version
            found.append((first, version))
    return found


def read_observed(path: Path = CLAIMS) -> Observed:
    """What the last run of the session saw. Raises :class:`UserError` for a file that cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Observed)
    except (OSError, *UNREADABLE) as error:
        raise UserError(f"{path} cannot be read: {error}; `nox -s history` writes it") from None


def file_text(observed: Observed) -> str:
    """The stored file as JSON, with a line for each entry and family."""
    fields = msgspec.to_builtins(observed).items()
    return "{\n" + ",\n".join(f'"{name}": {_text(value, 2)}' for name, value in fields) + "\n}\n"


def _text(value: Any, depth: int) -> str:
    """JSON in which dicts down to a depth have a line for each key."""
    if depth == 0 or not isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    inner = ",\n".join(f'{" " * (3 - depth)}"{name}": {_text(item, depth - 1)}' for name, item in value.items())
    return "{\n" + inner + "\n" + " " * (2 - depth) + "}"


def unobserved(known_bugs: Ledger, observed: Observed) -> list[str]:
    """The claims about the judged releases that nothing stored shows, one line for each entry and family."""
    claimed: dict[tuple[str, str], set[str]] = {}
    for claim in claims(known_bugs, observed.releases):
        claimed.setdefault((claim.entry, claim.family), set()).add(claim.release)
    entries = {entry.id: entry for entry in known_bugs.entries}
    lines = []
    for (name, family), wanted in claimed.items():
        some = observed.shown.get(name, {}).get(family, [])
        missing = wanted - set(shown_on(entries[name], some, observed.releases))
        if missing:
            spans = told(rows(missing, observed.releases))
            lines.append(f"ledger entry {name} claims {family} on timm {spans}, and no case shows it there")
    return lines


def shown_on(entry: Entry, some: Iterable[Shown], versions: Sequence[str]) -> Iterator[str]:
    """The releases on which an entry was seen by failures that it still covers."""
    for shown in some:
        if any(fnmatchcase(shown.failure, pattern) for pattern in entry.shows) and shown.regime in entry.regime:
            for first, last in shown.releases:
                yield from versions[versions.index(first) : versions.index(last) + 1]


def told(spans: Iterable[tuple[str, str]]) -> str:
    """Rows of releases as text."""
    return ", ".join(first if first == last else f"{first} to {last}" for first, last in spans)
