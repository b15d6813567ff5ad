"""Results laid over one another: shards become the whole run, and a later partial run replaces what it judged again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from .changes import changes
from .families import FAMILIES
from .ledger import Entry, Ledger
from .results import Footer, Header, Loads, Record, Results, Round, TargetError, Verdict, Witness
from .sharding import parse_shard


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


def settled(results: Results, book: Ledger, targets: Sequence[str] = ()) -> Results:
    """The results in their order, with what only the whole of them tells: stale ledger entries and value changes.

    Targets come in the order given, others after them as they appeared; families and invariants as in their registries.
    """
    order = list(dict.fromkeys((*targets, *results.targets)))
    stale = [
        (witness.target, entry)
        for witness in results.witnesses
        if witness.replay == "fixed" and not witness.expected and (entry := book.entry(witness.id)) is not None
    ]
    invariants = list(dict.fromkeys(i for h in results.headers for i in h.invariants))
    families = list(FAMILIES)
    witnesses = sorted(results.witnesses, key=lambda w: (order.index(w.target), _place(w.id, book)))
    loads = sorted(results.loads, key=lambda r: (order.index(r.target), families.index(r.family)))
    verdicts = sorted(
        (_marked(v, stale) for v in results.verdicts),
        key=lambda v: (order.index(v.target), families.index(v.family), _index(v.invariant, invariants)),
    )
    headers = sorted(results.headers, key=lambda h: order.index(h.target))
    errors = [TargetError(t, results.errors[t]) for t in order if t in results.errors]
    changed = sorted(changes(results), key=lambda c: (order.index(c.target), families.index(c.family)))
    return Results([*headers, *errors, *witnesses, *loads, *verdicts, *changed, *results.rounds])


def _place(name: str, book: Ledger) -> tuple[int, str]:
    return _index(name, [e.id for e in book.entries]), name


def _index(name: str, names: list[str]) -> int:
    return names.index(name) if name in names else len(names)


def _marked(verdict: Verdict, stale: list[tuple[str, Entry]]) -> Verdict:
    """``fixed`` where the ledger says that a promise is broken, and its witness says that it no longer is.

    Where there is a reason, a loader's owner said so (:mod:`conformance.known`), and it stays.
    """
    if verdict.verdict not in ("pass", "fixed") or verdict.reason:
        return verdict
    claimed = any(t == verdict.target and e.claims(verdict.family, verdict.invariant) for t, e in stale)
    return replace(verdict, verdict="fixed" if claimed else "pass")


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
