"""Results on a terminal: the family x target table, the new failures, the known ones, the denominator."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..ledger import Ledger
from ..results import Change, Results, Verdict

# A mark and a word for each verdict: readable without colour.
MARKS = {
    "fail": ("✗", "fail", "bold red"),
    "fixed": ("!", "fixed", "bold magenta"),
    "error": ("E", "error", "bold red"),
    "known": ("~", "known", "yellow"),
    "pass": ("✓", "pass", "green"),
    "not-applicable": ("–", "n/a", "dim"),
}

# As many targets have a column each; more have a row each.
FEW = 4


def make_console() -> Console:
    """A console as wide as the terminal; where there is none (a log, a pipe), wide enough for the table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def cell_counts(verdicts: list[Verdict]) -> list[tuple[str, int]]:
    """Verdicts of one cell counted, worst first."""
    counts = Counter(v.verdict for v in verdicts)
    return [(name, counts[name]) for name in MARKS if counts[name]]


def _counted(verdicts: list[Verdict]) -> Text:
    text = Text()
    for name, count in cell_counts(verdicts):
        mark, word, style = MARKS[name]
        text.append(f"{'  ' if text else ''}{mark} {count} {word}", style=style)
    return text or Text("–", style="dim")


def _cell(verdicts: list[Verdict], error: str | None) -> Text:
    if error is not None and not verdicts:
        return Text("E cannot start", style=MARKS["error"][2])
    if verdicts and all(v.verdict == "not-applicable" for v in verdicts):
        return Text(f"– {verdicts[0].reason.split(' (')[-1].rstrip(')') or 'n/a'}", style="dim")
    return _counted(verdicts)


def print_table(console: Console, results: Results) -> None:
    """Promises kept: a column a target where they are few, else a row a target with what it changed."""
    table = Table(title_justify="left", header_style="bold")
    if len(results.targets) <= FEW:
        table.title = "Promises kept, by family and target"
        table.add_column("family")
        for target in results.targets:
            table.add_column(target)
        for family in results.families:
            cells = (_cell(results.of(t, family), results.errors.get(t)) for t in results.targets)
            table.add_row(family, *cells)
    else:
        table.title = "Promises kept, by target"
        for column in ("target", "families", "promises", "values changed since the release before"):
            table.add_column(column)
        for target in results.targets:
            table.add_row(target, *_row(results, target))
    console.print(table)


def _row(results: Results, target: str) -> tuple[str, Text, str]:
    if target in results.errors:
        return "", Text(f"E {results.errors[target]}", style=MARKS["error"][2]), ""
    known = {v.family for v in results.of(target) if v.verdict != "not-applicable" or v.cases}
    changed = [c.family for c in results.changes if c.target == target]
    names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return str(len(known)), _counted(results.of(target)), names


def print_known(console: Console, results: Results, book: Ledger) -> None:
    """The known bugs that showed."""
    lines = known_lines(results, book)
    if lines:
        console.print("\nKnown bugs that showed", style=MARKS["known"][2])
    for line in lines:
        console.print(f"~ {line}", markup=False, soft_wrap=True)


def print_changes(console: Console, results: Results) -> None:
    """Where the same cases came out different from the release before."""
    lines = change_lines(results)
    if lines:
        console.print("\nValues changed, pass or fail", style="bold cyan")
    for line in lines:
        console.print(f"Δ {line}", markup=False, soft_wrap=True)


def change_lines(results: Results) -> list[str]:
    """The value changes, one line for those of a release that concern the same tensors."""
    alike: dict[tuple[str, str, tuple[str, ...]], list[Change]] = {}
    for change in results.changes:
        alike.setdefault((change.previous, change.target, tuple(change.tensors)), []).append(change)
    lines = []
    for (previous, target, tensors), changes in alike.items():
        cases = f"{sum(c.cases for c in changes)} of {sum(c.compared for c in changes)} cases"
        sizes = [c.largest for c in changes if c.largest is not None]
        size = f", by up to {max(sizes):.3g} times what rounding allows" if sizes else ""
        families = ", ".join(c.family for c in changes)
        lines.append(f"{previous} -> {target}: {_named(tensors)} of {families}: {cases}{size}")
    return lines


def _named(tensors: tuple[str, ...]) -> str:
    return ", ".join(tensors[:3]) + (f" and {len(tensors) - 3} more tensors" if len(tensors) > 3 else "")


def print_failures(console: Console, results: Results, witnesses: dict[tuple[str, str], Path]) -> None:
    """One block for each new failure: fingerprint, what is wrong, the smallest case, how to see it again."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    failing = [v for v in results.verdicts if v.verdict == "fail"]
    if failing:
        say("\nNew failures", "bold red")
    for verdict in failing:
        for failure in verdict.failures:
            say(f"✗ {verdict.target}  {failure.fingerprint}", "red")
            say(f"    {failure.message}")
            say(f"    {failure.case.describe()}", "dim")
            path = witnesses.get((verdict.target, failure.fingerprint))
            if path is not None:
                say(f"    timm-conformance replay {path} {verdict.target}")
    for target, reason in results.errors.items():
        say(f"E {target}  cannot start: {reason}", "red")
    for target, reasons in _errors(results).items():
        for reason, count in reasons.most_common():
            say(f"E {target}  {count} verdicts: {reason}", "red")
    for witness in results.witnesses:
        if not witness.expected:
            what = {"fails": "fails outside its ledger range", "fixed": "no longer fails: narrow its ledger range"}
            say(
                f"! {witness.target}  witness {witness.id} {what.get(witness.replay, witness.replay)}: {witness.message}"
            )


def _errors(results: Results) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for verdict in results.verdicts:
        if verdict.verdict == "error":
            found.setdefault(verdict.target, Counter())[verdict.reason] += 1
    return found


def denominator(results: Results) -> list[str]:
    """How much was really judged, one line a target."""
    lines = []
    for target in dict.fromkeys(v.target for v in results.verdicts):
        counts: Counter[str] = Counter()
        for verdict in results.of(target):
            counts.update(verdict.cases)
        judged = sum(counts[o] for o in ("pass", "fail", "known"))
        parts = [f"{target}: {judged} judgements ({counts['fail']} failed, {counts['known']} known)"]
        parts += [f"{counts[o]} {o}" for o in ("blocked", "not-applicable", "error") if counts[o]]
        lines.append(", ".join(parts))
    return lines


def known_lines(results: Results, book: Ledger) -> list[str]:
    """The ledger entries that showed, with how many failures each explains on each target."""
    titles = {e.id: e.title for e in book.entries}
    shown: dict[str, Counter[str]] = {}
    for verdict in results.verdicts:
        for entry, count in verdict.known.items():
            shown.setdefault(entry, Counter())[verdict.target] += count
    return [f"{entry}: {titles.get(entry, '')} ({_spread(counts)})" for entry, counts in sorted(shown.items())]


def _spread(counts: Counter[str]) -> str:
    """Failures by target; of many targets, how many and which."""
    if len(counts) <= FEW:
        return ", ".join(f"{t}: {n} failures" for t, n in counts.items())
    first, *_, last = counts
    return f"{counts.total()} failures on {len(counts)} targets, {first} to {last}"
