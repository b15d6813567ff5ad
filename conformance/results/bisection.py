"""Finds the releases that broke an invariant and those that fixed it, by bisection between verdicts that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from .records import Results

# The failures of a target: fingerprints without their regimes, and ids of ledger entries. None where nothing can be judged.
State = frozenset[str] | None


def state_of(found: Results, target: str) -> State:
    """The failures of a target in a run of one invariant and family, or in a replay of one witness."""
    if target in found.errors:
        return None
    verdicts, witnesses = found.of(target), [w for w in found.witnesses if w.target == target]
    if verdicts:
        if all(v.verdict in ("not-applicable", "error") for v in verdicts):
            return None
        names = {name for v in verdicts for name in (*v.known, *(f.fingerprint.split("[")[0] for f in v.failures))}
        return frozenset(names)
    replays = {w.replay: w.id for w in witnesses}
    if "fails" in replays:
        return frozenset({replays["fails"]})
    return frozenset() if "fixed" in replays else None


def search(
    releases: Sequence[str],
    judge: Callable[[list[str]], dict[str, State]],
    at_once: int,
    every: bool = False,
) -> dict[str, State]:
    """The states of the releases needed to place every change between two that differ, oldest first.

    ``judge`` gets several releases at a time, up to ``at_once`` between each two that differ. A change that is undone before
    the next judged release is not found, unless ``every`` release is judged.
    """
    order = list(releases)
    wanted = order if every else list(dict.fromkeys((order[0], order[-1])))
    states: dict[str, State] = {}
    while wanted:
        states |= judge(wanted)
        seen = [r for r in order if r in states]
        wanted = [r for a, b in pairwise(seen) if states[a] != states[b] for r in _between(order, a, b, at_once)]
    return {r: states[r] for r in order if r in states}


def _between(order: list[str], a: str, b: str, count: int) -> list[str]:
    inner = order[order.index(a) + 1 : order.index(b)]
    count = min(count, len(inner))
    return [inner[(len(inner) * (i + 1)) // (count + 1)] for i in range(count)]


def transitions(states: dict[str, State]) -> Iterator[tuple[str, str, str]]:
    """Neighbouring releases whose states differ, each pair with a description of the difference."""
    for (old, before), (new, after) in pairwise(states.items()):
        if before == after:
            continue
        if after is None:
            yield old, new, "can no longer be judged"
        elif before is None:
            yield old, new, f"judged for the first time: {describe_state(after)}"
        else:
            came, went = sorted(after - before), sorted(before - after)
            words = [f"first bad release, with {', '.join(came)}"] if came else []
            words += [f"first good release, without {', '.join(went)}"] if went else []
            yield old, new, "; ".join(words)


def describe_state(state: State) -> str:
    """``not judged``, ``passes``, or the failures of a state, as text."""
    if state is None:
        return "not judged"
    return f"fails: {', '.join(sorted(state))}" if state else "passes"
