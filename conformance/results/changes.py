"""Value changes: cases that one release loads into other values than the release before.

A family may pass on both releases and still have changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import sqrt

from packaging.version import Version

from .records import Change, LoadedCase, Loads, Results

# Tensors that are each within one bound of the other have a root mean square difference of at most 1 bound; its estimate
# from four projections is above 4 with a probability below 1e-12 (Hoeffding). What is above 4 differs.
THRESHOLD = 4.0
THE_LOAD = "the load"


def differences(old: LoadedCase, new: LoadedCase) -> dict[str, float | None]:
    """The tensors of one case that two loaders load differently, with the root mean square difference in units of the bound.

    The difference is None where there is no number: a tensor is missing or has another shape, or a load raises.
    """
    if "" in old.deviations or "" in new.deviations:
        return {} if old.deviations.get("") == new.deviations.get("") else {THE_LOAD: None}
    found: dict[str, float | None] = {}
    for tensor in dict.fromkeys((*old.deviations, *new.deviations)):
        a, b = old.deviations.get(tensor), new.deviations.get(tensor)
        if isinstance(a, str) or isinstance(b, str):
            if a != b:
                found[tensor] = None
            continue
        squares = [(x - y) ** 2 for x, y in zip(a or [0.0] * len(b or ()), b or [0.0] * len(a or ()))]
        size = sqrt(sum(squares) / len(squares))
        if not size <= THRESHOLD:  # infinite and undefined ones differ too
            found[tensor] = size if size < float("inf") else None
    return found


def describe_largest(largest: float | None) -> str:
    """The size of a change as the end of a sentence; empty where there is no number."""
    return "" if largest is None else f", by up to {largest:.3g} times what rounding allows"


def between(old: Loads, new: Loads) -> Change | None:
    """The change of a family from one target to another, or None."""
    before = {case.id: case for case in old.cases}
    pairs = [(before[case.id], case) for case in new.cases if case.id in before]
    found = [found for pair in pairs if (found := differences(*pair))]
    if not found:
        return None
    sizes = [size for tensors in found for size in tensors.values()]
    largest = None if None in sizes else max(size for size in sizes if size is not None)
    tensors = sorted({tensor for tensors in found for tensor in tensors})
    return Change(new.target, old.target, new.family, len(pairs), len(found), tensors, largest)


def changes(results: Results) -> list[Change]:
    """The changes of every family from each release to the next one that supports the family."""
    by_family: dict[str, list[Loads]] = {}
    order = releases_of(results)
    for loads in sorted((r for r in results.loads if r.target in order), key=lambda r: order.index(r.target)):
        by_family.setdefault(loads.family, []).append(loads)
    return [c for same in by_family.values() for c in _between_neighbours(same)]


def _between_neighbours(loads: Iterable[Loads]) -> list[Change]:
    known = [one for one in loads if one.cases]
    return [change for old, new in pairwise(known) if (change := between(old, new)) is not None]


def releases_of(results: Results) -> list[str]:
    """The targets that are timm, oldest release first. A checkout with a release's number comes after that release."""
    versions = {
        h.target: Version(h.timm) for h in results.headers if h.target.startswith(("timm==", "path:", "installed"))
    }
    return sorted(versions, key=lambda target: (versions[target], not target.startswith("timm==")))
