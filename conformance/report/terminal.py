"""Results on a terminal: the family x target table, the new failures, the known ones, the denominator."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results import Results, Verdict

# A mark and a word for each verdict: readable without colour.
MARKS = {
    "fail": ("✗", "fail", "bold red"),
    "fixed": ("!", "fixed", "bold magenta"),
    "error": ("E", "error", "bold red"),
    "known": ("~", "known", "yellow"),
    "pass": ("✓", "pass", "green"),
    "not-applicable": ("–", "n/a", "dim"),
}


def make_console() -> Console:
    """A console as wide as the terminal; where there is none (a log, a pipe), wide enough for the table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def cell_counts(verdicts: list[Verdict]) -> list[tuple[str, int]]:
    """Verdicts of one cell counted, worst first."""
    counts = Counter(v.verdict for v in verdicts)
    return [(name, counts[name]) for name in MARKS if counts[name]]


def _cell(verdicts: list[Verdict]) -> Text:
    counts = cell_counts(verdicts)
    if not counts:
        return Text("–", style="dim")
    if counts == [("not-applicable", len(verdicts))]:
        return Text(f"– {verdicts[0].reason.split(' (')[-1].rstrip(')') or 'n/a'}", style="dim")
    text = Text()
    for name, count in counts:
        mark, word, style = MARKS[name]
        text.append(f"{'  ' if text else ''}{mark} {count} {word}", style=style)
    return text


def print_table(console: Console, results: Results, targets: list[str], families: list[str]) -> None:
    """The family x target table."""
    table = Table(title="Promises kept, by family and target", title_justify="left", header_style="bold")
    table.add_column("family")
    for target in targets:
        table.add_column(target)
    for family in families:
        table.add_row(family, *(_cell(results.of(t, family)) for t in targets))
    console.print(table)


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


def known_lines(results: Results, titles: dict[str, str]) -> list[str]:
    """The ledger entries that showed, with how many failures each explains on each target."""
    shown: dict[str, Counter[str]] = {}
    for verdict in results.verdicts:
        for entry, count in verdict.known.items():
            shown.setdefault(entry, Counter())[verdict.target] += count
    return [
        f"{entry}: {titles.get(entry, '')} ({', '.join(f'{t}: {n} failures' for t, n in sorted(counts.items()))})"
        for entry, counts in sorted(shown.items())
    ]
