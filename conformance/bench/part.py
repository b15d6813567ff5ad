"""The results of one part of the benchmark as rows of cells, shown on the terminal, in Markdown and in JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.table import Table

from .timing import Timed

Cell = str | int | float | Timed | None


class Part(msgspec.Struct):
    """A question, the rows that answer it, and the findings as text.

    Every row has the same columns, by their headings. In JSON a :class:`Timed` is an object of seconds.
    """

    name: str
    question: str
    rows: list[dict[str, Cell]]
    findings: list[str]

    @property
    def headings(self) -> list[str]:
        """The columns, in order."""
        return list(self.rows[0])


def shown(cell: Cell) -> str:
    """A cell as text: times as median, spread and ratio."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}"
    if not isinstance(cell, Timed):
        return str(cell)
    unit, scale = ("ms", 1e3) if cell.median < 1 else ("s", 1)
    text = f"{cell.median * scale:.3g} {unit}"
    if cell.rounds > 1:
        text += f" ({cell.low * scale:.3g}–{cell.high * scale:.3g})"
    return text if cell.ratio is None else f"{text} {cell.ratio:.2f}x"


def table(part: Part) -> Table:
    """The rows for a terminal."""
    out = Table(title=part.question, title_justify="left")
    for heading in part.headings:
        out.add_column(heading)
    for row in part.rows:
        out.add_row(*map(shown, row.values()))
    return out


def markdown(parts: Sequence[Part], machine: str) -> str:
    """All parts as a page."""
    lines = ["# Benchmark", "", f"`python -m timm_conformance.bench` on {machine}."]
    for part in parts:
        lines += ["", f"## {part.question}", ""]
        lines += [f"| {' | '.join(part.headings)} |", "|" + "---|" * len(part.headings)]
        lines += [f"| {' | '.join(map(shown, row.values()))} |" for row in part.rows]
        lines += ["", *(f"- {finding}" for finding in part.findings)]
    return "\n".join(lines) + "\n"
