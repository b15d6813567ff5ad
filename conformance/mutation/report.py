"""Shows the scores on a terminal, as Markdown, and as an HTML page with the whole kill matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from .score import Judged, Score

_HERE = Path(__file__).resolve().parent
_OUTCOMES = ("killed", "survived", "equivalent", "refuted")


def headline(score: Score) -> str:
    """The score in one line."""
    counts = score.counts
    parts = [f"{counts[name]} {name}" for name in _OUTCOMES[1:] if counts[name]]
    judged = counts["killed"] + counts["survived"] + counts["refuted"]
    cut = "" if score.complete else f"; cut off after {len(score.judged)} of {sum(score.functions.values())}"
    return f"{score.target}: {score.share:.1%} of {judged} mutants killed ({', '.join(parts) or 'no other'}){cut}"


def show(score: Score, console: Console) -> None:
    """The survivors, what each invariant kills, and the score, on a terminal."""
    _table(console, "Mutants by function", _functions(score))
    _table(console, "What kills them", _invariants(score))
    for title, outcome in (("Survivors", "survived"), ("Listed as equivalent, and killed", "refuted")):
        found = score.of(outcome)
        if found:
            console.print(f"\n{title}", style="bold")
        for judged in found:
            console.print(describe(judged), markup=False, soft_wrap=True)
    for name, count in score.mistakes.most_common():
        console.print(f"the suite itself failed to judge {name} on {count} mutants", style="red")
    console.print(f"\n{headline(score)}", style="bold")


def describe(judged: Judged) -> str:
    """A mutant with the line it changes, and what killed it or how many cases did not."""
    mutant, fate = judged.mutant, judged.fate
    met = f"none of {fate.reached} cases kills it" if fate.reached else "no case runs it"
    met = f"killed by {', '.join(fate.killers)}" if fate.killers else fate.end or met
    return f"{mutant.where}  {mutant.operator}; {met}\n  - {mutant.before}\n  + {mutant.after}"


def markdown(score: Score) -> str:
    """The same as Markdown."""
    lines = [f"# Mutants of {score.target}", "", headline(score), ""]
    for title, rows in (("By function", _functions(score)), ("What kills them", _invariants(score))):
        head, *body = rows
        lines += [f"## {title}", "", _row(head), "|---" * len(head) + "|", *map(_row, body), ""]
    for title, outcome in (("Survivors", "survived"), ("Listed as equivalent, and killed", "refuted")):
        found = score.of(outcome)
        if found:
            lines += [f"## {title}", "", *(f"```diff\n{describe(judged)}\n```" for judged in found), ""]
    return "\n".join(lines)


def page(score: Score) -> str:
    """One self-contained HTML page: the kill matrix, a row for each mutant and a column for each invariant."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    functions = [(name, [j for j in score.judged if j.mutant.function == name]) for name in score.by_function]
    return environment.get_template("mutants.html.j2").render(
        score=score,
        headline=headline(score),
        invariants=list(score.kills),
        functions=functions,
        css=(_HERE.parent / "report" / "report.css").read_text(encoding="utf-8"),
    )


def _functions(score: Score) -> Iterator[list[str]]:
    yield ["function", "mutants", *_OUTCOMES]
    for name, counts in score.by_function.items():
        yield [name, str(score.functions.get(name, 0)), *(str(counts[o] or "") for o in _OUTCOMES)]


def _invariants(score: Score) -> Iterator[list[str]]:
    yield ["invariant", "kills, at least", "kills alone"]
    for name, (count, alone) in score.kills.items():
        yield [name, str(count), str(alone or "")]


def _table(console: Console, title: str, rows: Iterator[list[str]]) -> None:
    head, *body = rows
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in body:
        table.add_row(*row)
    console.print(table)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
