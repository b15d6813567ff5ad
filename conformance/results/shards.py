"""The name of a shard, ``I/N``."""

from __future__ import annotations

from ..errors import UserError


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N`` as two numbers. Raises :class:`UserError`."""
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count:
        raise UserError(f"--shard {text!r}: write I/N with 1 <= I <= N, for example 1/4")
    return index, count
