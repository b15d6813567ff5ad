"""The page of the claims that were observed, docs/claims.md."""

from __future__ import annotations

from collections.abc import Iterator

from ..ledger.entries import Entry, Ledger
from .claims import Observed, claims, is_held, rows, shown_on, told

NOTE = "<!-- Written by `python -m timm_conformance.history --write`. -->"


def page(known_bugs: Ledger, observed: Observed) -> str:
    """The families and releases in which each entry was observed, and what no case showed."""
    versions = observed.releases
    count = sum(1 for _ in claims(known_bugs, versions))
    kept = sum(len(families) for families in observed.cases.values())
    lines = ["# Claims", "", NOTE, ""]
    lines += [
        "The range of a [ledger](ledger.md) entry claims every family that the entry names, on every release in the range that",
        f"knows the format. On {len(versions)} releases of timm, {versions[0]} to {versions[-1]}, these are {count} claims.",
        "`nox -s history` looks for a case that shows each of them, and fails where it finds none. The gate's cases show most.",
        f"For {kept} pairs of an entry and a family a case was searched for. `fixtures/claims.json` keeps it. Faults of another",
        "library are left out, and so are entries that show only on a GPU.",
        "",
        "| ledger entry | families | releases | invariants that showed it |",
        "|---|---|---|---|",
    ]
    for entry in filter(is_held, known_bugs.entries):
        lines += _rows(entry, observed)
    lines += ["", "## Not seen", ""]
    lines += [
        "These signatures and conditions stand in an entry, and no case above met them. They are not errors: a claim needs one",
        "failure, and a case is searched for only until one is found.",
        "",
    ]
    ids = {entry.id for entry in known_bugs.entries}
    for name, unseen in observed.unseen.items():
        if name in ids:
            lines.append(f"- [`{name}`](ledger.md#{name}): {', '.join(f'`{one}`' for one in unseen)}")
    return "\n".join(lines) + "\n"


def _rows(entry: Entry, observed: Observed) -> Iterator[str]:
    """The rows of one entry: one for all families that were seen on the same releases."""
    families: dict[str, list[str]] = {}
    invariants: dict[str, set[str]] = {}
    for family, some in observed.shown.get(entry.id, {}).items():
        seen = told(rows(shown_on(entry, some, observed.releases), observed.releases))
        families.setdefault(seen, []).append(family)
        invariants.setdefault(seen, set()).update(shown.failure.partition(":")[0] for shown in some)
    for seen, names in families.items():
        cells = (", ".join(f"`{one}`" for one in sorted(some)) for some in (names, invariants[seen]))
        yield f"| [`{entry.id}`](ledger.md#{entry.id}) | {next(cells)} | {seen} | {next(cells)} |"
