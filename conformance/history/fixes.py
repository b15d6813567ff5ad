"""Loader fixes that timm's releases themselves show.

A fix is a case that violates an invariant in one release and passes it in the next. Every release judges the gate's cases
without ledger, witnesses or shrinking. Then each fix must have a ledger entry whose range ends there, and each entry whose
range ends must have a case that shows the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from packaging.version import Version

from ..ledger.entries import Entry, Ledger, first_covering
from .observations import Observations, Observed

# Fixes that the session showed while releases before a format's complete conversion were not judged.
_EXCUSED = 35
NOTE = "<!-- Written by `python -m timm_conformance.history --write`. -->"


@dataclass(frozen=True)
class Fix:
    """One way in which cases of a family violate an invariant in release ``old``, and no longer do in ``new``, the next one.

    ``entry`` is the ledger entry whose range ends there, empty where there is none; ``cases`` are numbers of drawn cases.
    ``passes`` says that the invariant holds for one of them in ``new``; otherwise each violates it in another way.
    """

    old: str
    new: str
    entry: str
    kind: str
    tensor: str
    invariant: str
    family: str
    cases: frozenset[int]
    passes: bool


def fixes(seen: Mapping[str, Observations], known_bugs: Ledger) -> list[Fix]:
    """The fixes between neighbours of the releases seen, oldest first.

    A failure that another failure replaces counts as a fix only if a ledger entry of it ends there.
    """
    found: list[Fix] = []
    for (old, before), (new, after) in pairwise(seen.items()):
        ending = [entry for entry, _, _ in ends(known_bugs, [old, new])]
        cases: dict[tuple[str, str, str, str, str], dict[int, bool]] = {}
        for family in before.keys() & after.keys():
            for number, (was, now) in enumerate(zip(before[family], after[family], strict=True)):
                # The release opens more files: targets/file_reader.py says since when, and an entry only where one ends.
                opened = "saved-unread" in was.regimes - now.regimes
                for invariant, kind, tensor in _fixed_failures(was, now):
                    entry = first_covering(ending, family, invariant, (kind, tensor), was.regimes)
                    owner = entry.id if entry else ""
                    passes = invariant in now.passed
                    if owner or (passes and not opened):
                        cases.setdefault((owner, kind, tensor, invariant, family), {})[number] = passes
        found += [Fix(old, new, *key, frozenset(some), any(some.values())) for key, some in sorted(cases.items())]
    return found


def _fixed_failures(was: Observed, now: Observed) -> Iterator[tuple[str, str, str]]:
    """The failures of a case that a later release judges and does not show."""
    for invariant, problems in was.failed.items():
        if invariant in now.passed or invariant in now.failed:
            left = {tuple(problem) for problem in problems} - {tuple(p) for p in now.failed.get(invariant, ())}
            yield from ((invariant, kind, tensor) for kind, tensor in left)


def ends(known_bugs: Ledger, versions: Sequence[str]) -> Iterator[tuple[Entry, str, str]]:
    """Each ledger entry that shows on a CPU, with the last release that has the bug and the first that does not."""
    for entry in known_bugs.entries:
        for old, new in pairwise(versions) if entry.regime != ["off-cpu"] else ():
            if entry.applies_to(Version(old)) and not entry.applies_to(Version(new)):
                yield entry, old, new


def unknown(found: Iterable[Fix]) -> list[str]:
    """Fixes that no ledger entry ends with, one line each."""
    return [
        f"{f.old} -> {f.new}: {f.invariant}:{f.family}:{f.kind}:{f.tensor} is fixed, and no ledger entry ends there"
        for f in found
        if not f.entry
    ]


def unseen(found: Sequence[Fix], known_bugs: Ledger, versions: Sequence[str]) -> list[str]:
    """The ends of ledger entries that no drawn case shows, one line each."""
    shown = {(f.entry, f.old) for f in found}
    return [
        f"{old} -> {new}: ledger entry {entry.id} ends there, and no case of the gate shows it"
        for entry, old, new in ends(known_bugs, versions)
        if (entry.id, old) not in shown
    ]


def page(found: Sequence[Fix], seen: Mapping[str, Observations], known_bugs: Ledger, gaps: Sequence[str]) -> str:
    """The fixes as a page: how many the session found, each by ledger entry, and each fixed failure with its invariants."""
    versions = list(seen)
    cases = max(sum(len(observed) for observed in one.values()) for one in seen.values())
    known = {(entry.id, old) for entry, old, _ in ends(known_bugs, versions)}
    shown = len(known & {(f.entry, f.old) for f in found})
    lines = ["# History", "", NOTE, ""]
    lines += [
        f"The gate's {cases} cases (seed 0) were judged on {len(versions)} releases of timm, {versions[0]} to {versions[-1]},",
        "as far as each supports the format, without ledger, witnesses or shrinking. A fix is a case that violates an",
        "invariant in one release and passes it in the next. `nox -s history` fails where a fix has no [ledger](ledger.md)",
        "entry that ends there, or an entry ends and no case shows it.",
        "",
        f"The ledger has {len(known)} fixes between these releases, and the session shows {shown} of them.",
        f"It showed {_EXCUSED} while a release was excused until it converted a format in full. Now a release is judged as soon",
        "as it knows the format ([families](families.md)).",
        "",
        "| last release with it | first without | ledger entry | families | invariants that show it | cases | now |",
        "|---|---|---|---|---|---|---|",
    ]
    for (old, new, entry), group in groupby(found, key=lambda f: (f.old, f.new, f.entry)):
        same = list(group)
        owner = f"[`{entry}`](ledger.md#{entry})" if entry else "none"
        now = "pass" if any(f.passes for f in same) else "fail otherwise"
        lines.append(f"| {old} | {new} | {owner} | {_table_cells(same)} | {now} |")
    lines += ["", *(f"- {gap}" for gap in gaps)] if gaps else []
    lines += [
        "",
        "## Fixed failures",
        "",
        "| first without | ledger entry | failure | families | invariants | cases |",
        "|---|---|---|---|---|---|",
    ]
    for (_, new, entry, kind, tensor), group in groupby(found, key=lambda f: (f.old, f.new, f.entry, f.kind, f.tensor)):
        owner = f"`{entry}`" if entry else "none"
        failure = f"`{kind}` `{tensor}`" if tensor else f"`{kind}`"
        lines.append(f"| {new} | {owner} | {failure} | {_table_cells(list(group))} |")
    return "\n".join(lines) + "\n"


def _table_cells(same: Sequence[Fix]) -> str:
    """Families, invariants and the number of cases of one fix, as three cells."""
    cases = {(f.family, number) for f in same for number in f.cases}
    return f"{_names(f.family for f in same)} | {_names(f.invariant for f in same)} | {len(cases)}"


def _names(names: Iterable[str]) -> str:
    """Names as text: all if they are few, otherwise three and the number of the others."""
    order = sorted(set(names))
    shown = ", ".join(f"`{name}`" for name in (order if len(order) <= 6 else order[:3]))
    return shown if len(order) <= 6 else f"{shown} and {len(order) - 3} more"
