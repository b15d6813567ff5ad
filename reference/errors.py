"""The one exception the reference raises for a checkpoint it cannot load: one line saying what, where and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class LoadError(ValueError):
    """A checkpoint that cannot be loaded into the given model, with the reason in one line."""


def some(names: Iterable[str], limit: int = 4) -> str:
    """``names`` as readable text, the first ``limit`` spelled out and the rest counted."""
    names = list(names)
    text = ", ".join(names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text or "none"
