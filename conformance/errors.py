"""Mistakes a user can make: one clear line saying what, where and what to do. They exit with code 2, never a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_EXPECTED = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_VACUOUS = 3


class UserError(Exception):
    """A wrong argument, file or environment."""


def one_line(text: object) -> str:
    """What somebody else's exception says: white space folded, what does not print spelled out, cut where it becomes a page."""
    folded = " ".join(str(text).split())[:300]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in folded)


def cannot_start(error: Exception) -> str:
    """Why a target cannot start, in one line; a user's mistake in its own words."""
    if isinstance(error, UserError):
        return str(error)
    return f"cannot start the target: {type(error).__name__}: {one_line(error)}"


def choose(kind: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The named entries of a registry in its own order, all of them when none is named. Raises :func:`unknown`."""
    names, known = [names] if isinstance(names, str) else list(names), list(known)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return [k for k in known if k in names] if names else known


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}: {hint}")
