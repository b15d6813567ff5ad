"""Compares two sets of results: new failures, fixed failures, changed values, and what is no longer judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from ..errors import UserError
from .changes import between, describe_largest
from .records import Results, Verdict

Kind = Literal["new-failure", "fixed", "changed", "newly-not-run", "newly-run"]
KINDS: dict[str, str] = {
    "new-failure": "New failures",
    "fixed": "Fixed",
    "changed": "Changed",
    "newly-not-run": "Newly not run",
    "newly-run": "Newly run",
}
_JUDGED = ("pass", "fail", "known", "fixed")


class Difference(msgspec.Struct, frozen=True):
    """One thing that differs. ``invariant`` is empty where it concerns a family or a target as a whole."""

    kind: Kind
    target: str
    family: str
    invariant: str
    text: str


def difference(old: Results, new: Results) -> list[Difference]:
    """Everything that differs between two sets of results, target by target.

    Targets are matched by name. If no name is in both and each set has one target, these two are compared, for example a
    checkout with a release. Raises :class:`UserError` where nothing can be matched.
    """
    found = [d for before, after in _pairs(old, new) for d in _target(old, new, before, after)]
    return sorted(found, key=lambda d: list(KINDS).index(d.kind))


def _pairs(old: Results, new: Results) -> list[tuple[str, str]]:
    common = [target for target in old.targets if target in new.targets]
    if common:
        return [(target, target) for target in common]
    if len(old.targets) == len(new.targets) == 1:
        return [(old.targets[0], new.targets[0])]
    raise UserError(f"no target is in both: {', '.join(old.targets[:4])} and {', '.join(new.targets[:4])}")


def _target(old: Results, new: Results, before: str, after: str) -> Iterator[Difference]:
    name = after if before == after else f"{before} -> {after}"
    if after in new.errors and before not in old.errors:
        yield Difference("newly-not-run", name, "", "", f"cannot start: {new.errors[after]}")
    olds = {(v.family, v.invariant): v for v in old.of(before)}
    news = {(v.family, v.invariant): v for v in new.of(after)}
    missing = Verdict(after, "", "", "not-applicable", reason="is not in the results")
    for cell in dict.fromkeys((*olds, *news)):
        for kind, text in _cell(olds.get(cell, missing), news.get(cell, missing)):
            yield Difference(kind, name, *cell, text)
    loads = {r.family: r for r in old.loads if r.target == before}
    for later in (r for r in new.loads if r.target == after and r.family in loads):
        change = between(loads[later.family], later)
        if change is not None:
            cases = f"{change.cases} of {change.compared} cases load otherwise{describe_largest(change.largest)}"
            text = f"{', '.join(change.tensors)}: {cases}"
            yield Difference("changed", name, later.family, "", text)


def _cell(old: Verdict, new: Verdict) -> Iterator[tuple[Kind, str]]:
    ran, runs = old.verdict in _JUDGED, new.verdict in _JUDGED
    before, after = ({f.fingerprint: f for f in v.failures} for v in (old, new))
    for fingerprint in after.keys() - before.keys():
        yield "new-failure", f"{fingerprint}: {after[fingerprint].message}"
    if ran and not runs:
        yield "newly-not-run", new.reason or new.verdict
        return
    if runs and not ran:
        yield "newly-run", new.verdict
    elif runs and new.verdict == "pass" and old.verdict in ("fail", "known"):
        yield "fixed", ", ".join((*before, *old.known))
    elif runs:
        gone = [f for f in before if f not in after]
        if gone:
            yield "fixed", ", ".join(gone)
        if set(old.known) != set(new.known):
            yield "changed", f"known bugs that show: {_names(old)} before, {_names(new)} now"


def _names(verdict: Verdict) -> str:
    return ", ".join(verdict.known) or "none"
