"""Results laid over one another: shards become the whole run, and a later partial run replaces what it judged again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from ..families import FAMILIES
from .records import Footer, Header, Loads, Record, Results, Round, TargetError, Verdict, Witness
from .shards import parse_shard


def overlay(parts: Iterable[Results]) -> Results:
    """One set of results of several; where two say something of the same thing, the later one counts."""
    headers: list[Header] = []
    kept: dict[tuple[str, ...], Record] = {}
    for part in parts:
        for header in part.headers:
            headers = [*(h for old in headers if (h := _under(header, old))), header]
            kept.pop(("error", header.target), None)
        for record in part.records:
            key = _key(record)
            if key is not None:
                kept.pop(key, None)
                kept[key] = record
    return Results([*_united(headers), *kept.values()])


def _key(record: Record) -> tuple[str, ...] | None:
    """What a record says something of; None for those that are made anew."""
    match record:
        case TargetError():
            return ("error", record.target)
        case Witness():
            return ("witness", record.target, record.id)
        case Loads():
            return ("loads", record.target, record.family)
        case Round():
            return ("round", str(record.seed))
        case Verdict():
            return ("verdict", record.target, record.family, record.invariant)
    return None


def _under(new: Header, old: Header) -> Header | None:
    """What an older header still stands for under a newer one."""
    if old.target != new.target or not set(old.invariants) <= set(new.invariants):
        return old
    left = [f for f in old.families if f not in new.families]
    return replace(old, families=left) if left else None


def _united(headers: list[Header]) -> list[Header]:
    """Headers that differ in their families alone are one."""
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
    """The shards several results hold, and those of the same cut that they lack; no shards for whole runs."""
    held = sorted({s for part in parts for footer in part.footers for s in footer.shards}, key=parse_shard)
    counts = {parse_shard(s)[1] for s in held}
    missing = [f"{i}/{n}" for n in sorted(counts) for i in range(1, n + 1) if f"{i}/{n}" not in held]
    return held, missing


def footer_of(parts: Sequence[Results], exit_code: int) -> Footer:
    """The footer of merged results: the time all of them took, what any skipped, and the shards as long as some are missing."""
    held, missing = shards_of(parts)
    footers = [footer for part in parts for footer in part.footers]
    skipped = list(dict.fromkeys(line for footer in footers for line in footer.skipped))
    return Footer(round(sum(f.seconds for f in footers), 3), exit_code, held if missing else [], skipped)
