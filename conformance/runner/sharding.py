"""Splits the families of all targets into shards for several machines.

A shard is a run of neighbours in the list of every target's families, so that it starts as few targets as possible. The
expected work of the shards is about equal. The same run is always split in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.version import Version

from ..errors import UserError
from ..families import FAMILIES
from ..results.shards import parse_shard

Work = Mapping[str, tuple[str, ...]]


def weight(target: str, family: str) -> float:
    """The expected work of one family on one target: almost none where the release does not support the family."""
    known = not target.startswith("timm==") or FAMILIES[family].supported_by(Version(target.removeprefix("timm==")))
    return FAMILIES[family].weight if known else 0.001


def share(targets: Sequence[str], families: Sequence[str], shard: str | None) -> Work:
    """The families of each target that a shard ``I/N`` judges, all of them for None. Raises :class:`UserError`."""
    if shard is None:
        return {target: tuple(families) for target in targets}
    index, count = parse_shard(shard)
    cells = [(target, family) for target in targets for family in families]
    total, done = sum(weight(*cell) for cell in cells), 0.0
    mine: dict[str, tuple[str, ...]] = {}
    for target, family in cells:
        here = weight(target, family)
        if int((done + here / 2) / total * count) + 1 == index:
            mine[target] = (*mine.get(target, ()), family)
        done += here
    if not mine:
        raise UserError(f"--shard {shard}: there are only {len(cells)} families of targets to share out")
    return mine
