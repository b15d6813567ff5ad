"""Runs the project's own tests on mutants of the reference, which is the oracle of all other judgements."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from ..cases.fixtures import CHECKOUT
from ..errors import UserError
from .functions import Function
from .line_coverage import Lines

_IMPORTS = re.compile(r"^from timm_conformance(\.reference\b| import (.*, )?reference\b)", re.M)
# Tests that start other processes cannot see a mutant of this process, and are slow.
_ELSEWHERE = re.compile(r"^import subprocess|\bRun\(|fuzz|\bother_repository\b", re.M)
_QUIETLY = ("-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not cuda")


class _Watch:
    """Records the lines that each test runs, how long it takes, and which tests fail."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self.functions = list(functions)
        self.seen: dict[str, tuple[frozenset[tuple[str, int]], float]] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        started = time.perf_counter()
        with Lines(self.functions) as lines:
            result = yield
        self.seen[item.nodeid] = frozenset(lines.seen), time.perf_counter() - started
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def files() -> list[str]:
    """The test modules of a checkout that use the reference in their own process; empty for an installed package."""
    paths = sorted((CHECKOUT / "tests").glob("test_*.py")) if CHECKOUT else []
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    return [str(path) for path, text in texts.items() if _IMPORTS.search(text) and not _ELSEWHERE.search(text)]


def measure_tests(functions: Iterable[Function]) -> dict[str, tuple[frozenset[tuple[str, int]], float]]:
    """The lines of the functions that each test runs, and its seconds.

    Raises :class:`UserError` where one fails on the clean reference.
    """
    watch = _Watch(functions)
    if files():
        _run(files(), watch)
    if watch.failed:
        raise UserError(f"the clean reference does not survive the tests: {', '.join(watch.failed)}")
    return watch.seen


def any_test_fails(tests: list[str]) -> bool:
    """Whether one of these tests fails or cannot be run. Stops at the first that does."""
    return _run([*tests, "-x"], _Watch(())) != 0


def _run(arguments: list[str], watch: _Watch) -> int:
    before = Path.cwd()
    os.chdir(CHECKOUT or before)
    try:
        return pytest.main([*_QUIETLY, *arguments], plugins=[watch])
    finally:
        os.chdir(before)
