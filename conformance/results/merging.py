"""Merges results: shards become one run, and a later partial run replaces what it judged again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from ..families import FAMILIES
from .records import Cause, Footer, Header, Loads, Record, Results, Round, TargetError, Verdict, Witness
from .shards import parse_shard


def merge_results(parts: Iterable[Results]) -> Results:
    """Merge several sets of results into one. Where two have a record of the same thing, the later one counts."""
    headers: list[Header] = []
    kept: dict[tuple[str, ...], Record] = {}
    for part in parts:
        for header in part.headers:
            headers = [*(h for old in headers if (h := _not_replaced(header, old))), header]
            kept.pop(("error", header.target), None)
        for record in part.records:
            key = _key(record)
            if key is not None:
                kept.pop(key, None)
                kept[key] = record
    merged = Results([*_combine_headers(headers), *kept.values()])
    failing = {(v.target, f.fingerprint) for v in merged.verdicts for f in v.failures}
    # Verdicts that were replaced may have failed otherwise.
    gone = [c for c in merged.causes if not all((c.target, name) in failing for name in c.failures)]
    return Results(r for r in merged.records if r not in gone) if gone else merged


def _key(record: Record) -> tuple[str, ...] | None:
    """The thing that a record is about; None for records that a merge makes again."""
    match record:
        case TargetError():
            return ("error", record.target)
        case Witness():
            return ("witness", record.target, record.id)
        case Loads():
            return ("loads", record.target, record.family)
        case Cause():
            return ("cause", record.target, *record.failures[:1])
        case Round():
            return ("round", str(record.seed))
        case Verdict():
            return ("verdict", record.target, record.family, record.invariant)
    return None


def _not_replaced(new: Header, old: Header) -> Header | None:
    """The part of an older header that a newer one does not replace; None if it replaces all."""
    if old.target != new.target or not set(old.invariants) <= set(new.invariants):
        return old
    left = [f for f in old.families if f not in new.families]
    return replace(old, families=left) if left else None


def _combine_headers(headers: list[Header]) -> list[Header]:
    """Combine headers that differ only in their families."""
    found: list[Header] = []
    for header in headers:
        same = next((h for h in found if replace(h, families=[]) == replace(header, families=[])), None)
        if same is None:
            found.append(header)
        else:
            families = [f for f in FAMILIES if f in same.families or f in header.families]
            found[found.index(same)] = replace(same, families=families)
    return found


def shards_of(parts: Iterable[Results]) -> tuple[list[str], list[str]]:
    """The shards that several results hold, and the missing ones. Whole runs have no shards."""
    held = sorted({s for part in parts for footer in part.footers for s in footer.shards}, key=parse_shard)
    counts = {parse_shard(s)[1] for s in held}
    missing = [f"{i}/{n}" for n in sorted(counts) for i in range(1, n + 1) if f"{i}/{n}" not in held]
    return held, missing


def footer_of(parts: Sequence[Results], exit_code: int) -> Footer:
    """The footer of merged results: total time, what was skipped, and the shards held if some are missing."""
    held, missing = shards_of(parts)
    footers = [footer for part in parts for footer in part.footers]
    skipped = list(dict.fromkeys(line for footer in footers for line in footer.skipped))
    return Footer(round(sum(f.seconds for f in footers), 3), exit_code, held if missing else [], skipped)
