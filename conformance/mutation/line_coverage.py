"""Records which lines of the functions a case runs: a mutant is judged only on cases that run its changed lines."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import FrameType
from typing import Any

from .functions import Function


class Lines:
    """A context that records the lines run in some functions and their inner functions: ``seen`` has (file, line)."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self._spans: dict[str, list[range]] = {}
        for f in functions:
            span = range(f.function.__code__.co_firstlineno, f.line + len(f.source.splitlines()))
            self._spans.setdefault(f.function.__code__.co_filename, []).append(span)
        self.seen: set[tuple[str, int]] = set()

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Callable | None:
        code = frame.f_code
        spans = self._spans.get(code.co_filename)
        if spans is None or not any(code.co_firstlineno in span for span in spans):
            return None
        return self._ran

    def _ran(self, frame: FrameType, event: str, argument: Any) -> Callable:
        if event == "line":
            self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._ran


def _end(node: ast.stmt) -> int:
    """The last line of a parsed statement."""
    return node.end_lineno or node.lineno


@lru_cache(maxsize=4096)
def changed_lines(function: Function, line: int, lines: int) -> frozenset[tuple[str, int]]:
    """The ``lines`` that a mutant changes from ``line`` on, and those that they belong to, each with its file."""
    file = function.function.__code__.co_filename
    return frozenset((file, number) for number in header(function, line, line + lines - 1))


def header(function: Function, first: int, last: int) -> range:
    """The lines that run when the statement around lines ``first`` to ``last`` of the file is reached, without its body."""
    tree = ast.parse(function.source).body[0]
    shift = function.line - 1
    around = [
        n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno + shift <= first and _end(n) + shift >= last
    ]
    nearest = min(around, key=lambda n: _end(n) - n.lineno)
    end = _end(nearest) if nearest is tree or not hasattr(nearest, "body") else nearest.body[0].lineno - 1
    return range(nearest.lineno + shift, max(end, nearest.lineno) + shift + 1)
