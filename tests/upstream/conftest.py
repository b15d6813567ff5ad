"""Prints how far each model was from upstream, for docs/upstream.md."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    measured: dict[str, tuple[float, float]] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "difference":
                builder = report.nodeid.rpartition("[")[2].rstrip("]").partition("-")[0]
                measured[builder] = max(tuple(value), measured.get(builder, (0.0, 0.0)))
    if measured:
        terminalreporter.section("largest difference from upstream")
        for builder, (value, limit) in measured.items():
            terminalreporter.write_line(f"{builder:32}{value:.1e}  of {limit:.1e} allowed")
