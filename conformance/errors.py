"""User errors: one line that says what is wrong, where, and what to do. They end with exit code 2 and no traceback."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

EXIT_EXPECTED = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_VACUOUS = 3
EXIT_INTERRUPTED = 130  # as shells say of Ctrl-C
EXIT_PIPE_CLOSED = 141  # and of a reader that went away


class UserError(Exception):
    """A wrong argument, file or environment."""


# A control sequence of a terminal: ECMA-48, "CSI ... final byte".
_ESCAPE_CODE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def one_line(text: object) -> str:
    """The text of another library's exception in one line of at most 300 characters.

    Escape codes of terminals, such as colours, are left out; other unprintable characters are escaped.
    """
    folded = " ".join(_ESCAPE_CODE.sub("", str(text)).split())[:300]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in folded)


def cannot_start(error: Exception) -> str:
    """Why a target cannot start, in one line. A :class:`UserError` keeps its own text."""
    if isinstance(error, UserError):
        return str(error)
    return f"cannot start the target: {type(error).__name__}: {one_line(error)}"


def choose(kind: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The named entries of a registry, in the registry's order; all of them if none is named. Raises :func:`unknown`."""
    names, known = [names] if isinstance(names, str) else list(names), list(known)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return [k for k in known if k in names] if names else known


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist. It proposes the nearest name that does."""
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}: {hint}")
