"""The project's own tests as judges: the reference is the oracle of everything else, so they have to notice its mutants."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from ..errors import UserError
from .functions import Function
from .line_coverage import Lines

FOLDER = Path(__file__).resolve().parents[2] / "tests"
_IMPORTS = re.compile(r"^(import|from) reference\b", re.M)
# What starts other processes sees no mutant in them, and takes its time.
_ELSEWHERE = re.compile(r"^import subprocess|\bRun\(|fuzz|\bother_repository\b", re.M)
_QUIETLY = ("-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not cuda")


class _Watch:
    """Notes the lines each test runs and how long that takes, and which fail."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self.functions = list(functions)
        self.seen: dict[str, tuple[frozenset[tuple[str, int]], float]] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        started = time.perf_counter()
        with Lines(self.functions) as lines:
            result = yield
        self.seen[item.nodeid] = frozenset(lines.seen), time.perf_counter() - started
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def files() -> list[str]:
    """The test modules of a checkout that use the reference in their own process; none where the package is installed."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("test_*.py"))}
    return [str(path) for path, text in texts.items() if _IMPORTS.search(text) and not _ELSEWHERE.search(text)]


def watched(functions: Iterable[Function]) -> dict[str, tuple[frozenset[tuple[str, int]], float]]:
    """The lines of the functions that each test runs, and its seconds.

    Raises :class:`UserError` where one fails on the clean reference.
    """
    watch = _Watch(functions)
    if files():
        _run(files(), watch)
    if watch.failed:
        raise UserError(f"the clean reference does not survive the tests: {', '.join(watch.failed)}")
    return watch.seen


def noticed(tests: list[str]) -> bool:
    """Whether one of these tests fails, or cannot be run; the first that does ends it."""
    return _run([*tests, "-x"], _Watch(())) != 0


def _run(arguments: list[str], watch: _Watch) -> int:
    before = Path.cwd()
    os.chdir(FOLDER.parent)
    try:
        return pytest.main([*_QUIETLY, *arguments], plugins=[watch])
    finally:
        os.chdir(before)
