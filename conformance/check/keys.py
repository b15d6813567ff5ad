"""Names of tensors as patterns: every number is a ``*``, so that a tensor of all blocks is one key."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")


def collapsed(name: str) -> str:
    """A tensor's name with its numbers replaced by ``*``: ``blocks.11.norm1.weight`` is ``blocks.*.norm1.weight``."""
    return _NUMBER.sub("*", name)


def patterns(names: Iterable[str]) -> dict[str, int]:
    """The patterns of tensor names with the number of tensors of each, in the order of the names."""
    found: dict[str, int] = {}
    for name in names:
        found[collapsed(name)] = found.get(collapsed(name), 0) + 1
    return found


def few(names: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """The first patterns of some names, each once."""
    return tuple(patterns(names))[:limit]
