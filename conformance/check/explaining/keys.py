"""Names of tensors as patterns: every number is a ``*``, so that a tensor of all blocks is one key."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...reference.errors import some

# Names come from a file, and regular expressions take long on long ones. No library writes names of this length.
LONGEST = 500
MOST = 5000
_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")


def collapsed(name: str) -> str:
    """A tensor's name with its numbers replaced by ``*``: ``blocks.11.norm1.weight`` is ``blocks.*.norm1.weight``."""
    return _NUMBER.sub("*", name)


def patterns(names: Iterable[str]) -> dict[str, int]:
    """The patterns of tensor names with the number of tensors of each, in the order of the names.

    Too long names are cut. So is the list of patterns: no model has as many.
    """
    found: dict[str, int] = {}
    for name in names:
        pattern = collapsed(name[:LONGEST])
        if pattern in found or len(found) < MOST:
            found[pattern] = found.get(pattern, 0) + 1
    return found


def few(names: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """The first patterns of some names, each once, as they are shown."""
    return tuple(map(shown, list(patterns(names))[:limit]))


def shown(name: str) -> str:
    """A name from a file as it is shown: quoted if it has unprintable characters, and cut if it is long."""
    return some([name])
