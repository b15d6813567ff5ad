"""The exception that the reference raises for a checkpoint it cannot load: one line that says what, where and what to do."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 120


class LoadError(ValueError):
    """A checkpoint that cannot be loaded into the given model, with the reason in one line."""


def some(names: Iterable[str], limit: int = 4) -> str:
    """``names`` as one line of text: the first ``limit`` names, and the number of the others.

    Names come from a file. A name with unprintable characters is quoted, and a long one is cut.
    """
    names = list(names)
    text = ", ".join((n if n.isprintable() else repr(n))[:_LONGEST] for n in names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text or "none"
