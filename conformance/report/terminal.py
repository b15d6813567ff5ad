"""Shows results on a terminal: the table of families and targets, new failures, known bugs, the number of judgements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..ledger.entries import Ledger
from ..results.causes import by_cause, counted
from ..results.changes import describe_largest
from ..results.records import JUDGED, Change, Results, Verdict
from .explained import told

# Files of new failures, by target and fingerprint.
Paths = Mapping[tuple[str, str], Path]

# Mark, word and style of each verdict. Mark and word are readable without colour.
MARKS = {
    "fail": ("✗", "fail", "bold red"),
    "fixed": ("!", "fixed", "bold magenta"),
    "error": ("E", "error", "bold red"),
    "known": ("~", "known", "yellow"),
    "pass": ("✓", "pass", "green"),
    "not-applicable": ("–", "n/a", "dim"),
}

# Up to so many targets, each has a column; with more targets, each has a row.
FEW = 4


def make_console() -> Console:
    """A console as wide as the terminal; where there is none (a log, a pipe), wide enough for the table."""
    # Without emoji: rich would replace the :radio: in a failure's name.
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=140)


def cell_counts(verdicts: list[Verdict]) -> list[tuple[str, int]]:
    """Verdicts of one cell counted, worst first."""
    counts: Counter[str] = Counter(v.verdict for v in verdicts)
    return [(name, counts[name]) for name in MARKS if counts[name]]


def verdict_label(verdict: str, count: int) -> str:
    """A number of verdicts of one kind as a cell shows it, for example ``✓ 24 pass``."""
    mark, word, _ = MARKS[verdict]
    return f"{mark} {count} {word}"


def short_reason(reason: str) -> str:
    """The short form of a reason: the part in brackets at its end, for example ``known since 1.0.31``, or all of it."""
    return reason.split(" (")[-1].rstrip(")")


def _counted(verdicts: list[Verdict]) -> Text:
    text = Text()
    for name, count in cell_counts(verdicts):
        text.append(f"{'  ' if text else ''}{verdict_label(name, count)}", style=MARKS[name][2])
    return text or Text("–", style="dim")


def _cell(verdicts: list[Verdict], error: str | None) -> Text:
    if error is not None and not verdicts:
        return Text("E cannot start", style=MARKS["error"][2])
    if verdicts and all(v.verdict == "not-applicable" for v in verdicts):
        return Text(f"– {short_reason(verdicts[0].reason) or 'n/a'}", style="dim")
    return _counted(verdicts)


def print_table(console: Console, results: Results) -> None:
    """Invariants that hold: one column for each target where they are few, else one row for each, with what it changed."""
    table = Table(title_justify="left", header_style="bold")
    if len(results.targets) <= FEW:
        table.title = "Invariants that hold, by family and target"
        table.add_column("family")
        for target in results.targets:
            table.add_column(target)
        for family in results.families:
            cells = (_cell(results.of(t, family), results.errors.get(t)) for t in results.targets)
            table.add_row(family, *cells)
    else:
        table.title = "Invariants that hold, by target"
        for column in ("target", "families", "invariants", "values changed since the release before"):
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


def print_known(console: Console, results: Results, known_bugs: Ledger) -> None:
    """Print the known bugs that showed."""
    lines = known_lines(results, known_bugs)
    if lines:
        console.print("\nKnown bugs that showed", style=MARKS["known"][2])
    for line in lines:
        console.print(f"~ {line}", markup=False, soft_wrap=True)


def print_probes(console: Console, results: Results) -> None:
    """Print what the probes found about the installed libraries."""
    for line in probe_lines(results):
        console.print(line, markup=False, soft_wrap=True)


def probe_lines(results: Results) -> list[str]:
    """The answers of the probes, one line each."""
    return [answer.describe() for answer in results.probes]


def print_changes(console: Console, results: Results) -> None:
    """Print the families whose cases load into other values than with the release before."""
    lines = change_lines(results)
    if lines:
        console.print("\nValues changed, pass or fail", style="bold cyan")
    for line in lines:
        console.print(f"Δ {line}", markup=False, soft_wrap=True)


def change_lines(results: Results) -> list[str]:
    """The value changes; one line for all changes of a release that concern the same tensors."""
    alike: dict[tuple[str, str, tuple[str, ...]], list[Change]] = {}
    for change in results.changes:
        alike.setdefault((change.previous, change.target, tuple(change.tensors)), []).append(change)
    lines = []
    for (previous, target, tensors), changes in alike.items():
        cases = f"{sum(c.cases for c in changes)} of {sum(c.compared for c in changes)} cases"
        size = describe_largest(max((c.largest for c in changes if c.largest is not None), default=None))
        families = ", ".join(c.family for c in changes)
        lines.append(f"{previous} -> {target}: {_named(tensors)} of {families}: {cases}{size}")
    return lines


def _named(tensors: tuple[str, ...]) -> str:
    return ", ".join(tensors[:3]) + (f" and {len(tensors) - 3} more tensors" if len(tensors) > 3 else "")


def print_failures(console: Console, results: Results, witnesses: Paths, scripts: Paths) -> None:
    """Print one block for each cause of new failures: what failed, how to replay it, the script, and what else it explains."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    groups = by_cause(results)
    if groups:
        say(f"\nNew failures: {counted(results)}", "bold red")
    for group in groups:
        target, fingerprint = group.name
        say(f"✗ {', '.join(group.targets)}  {fingerprint}", "red")
        for label, text in told(group):
            say(f"    {label:<10} {text}")
        if results.rounds:
            say(f"    drawn by seed {group.shown.failure.seed}", "dim")
        if group.name in witnesses:
            say(f"    replay     timm-conformance replay {witnesses[group.name]} {target}")
        if group.name in scripts:
            with_what = f"torch, timm and {target}" if target.startswith("loader:") else "torch and timm only"
            say(f"    script     {scripts[group.name]} reproduces it with {with_what}")
        if group.others:
            say(f"    also       {len(group.others)} more: {', '.join(group.others)}", "dim")
    for target, reason, count in errors_of(results):
        say(f"E {target}  {f'{count} verdicts' if count else 'cannot start'}: {reason}", "red")
    for witness in results.witnesses:
        if not witness.expected:
            own = witness.target.startswith("loader:")
            what = {
                "fails": "fails" if own else "fails outside its ledger range",
                "fixed": "no longer fails: narrow its ledger range",
            }
            say(
                f"! {witness.target}  witness {witness.id} {what.get(witness.replay, witness.replay)}: {witness.message}"
            )


def errors_of(results: Results) -> list[tuple[str, str, int]]:
    """Target, reason and number of error verdicts for each error; the number is 0 for a target that never started."""
    costs: Counter[tuple[str, str]] = Counter(dict.fromkeys(results.errors.items(), 0))
    costs.update((v.target, v.reason) for v in results.verdicts if v.verdict == "error")
    return [(target, reason, count) for (target, reason), count in costs.items()]


def judgements(verdicts: Iterable[Verdict]) -> Counter[str]:
    """Count cases by outcome. ``judged`` counts the outcomes that are judgements."""
    counts: Counter[str] = Counter()
    for verdict in verdicts:
        counts.update(verdict.cases)
    counts["judged"] = sum(counts[outcome] for outcome in JUDGED)
    return counts


def denominator(results: Results) -> list[str]:
    """The number of judgements: the rounds of a hunt, then one line for each target, then what was skipped."""
    lines = [describe_rounds(results)] if results.rounds else []
    for target in dict.fromkeys(v.target for v in results.verdicts):
        counts = judgements(results.of(target))
        parts = [f"{target}: {counts['judged']} judgements ({counts['fail']} failed, {counts['known']} known)"]
        parts += [f"{counts[o]} {o}" for o in ("blocked", "not-applicable", "error") if counts[o]]
        sought = sum(v.sought.get(outcome, 0) for v in results.of(target) for outcome in JUDGED)
        parts += [f"and {sought} of cases that were sought to meet a regime"] if sought else []
        lines.append(", ".join(parts))
    return lines + skipped(results)


def skipped(results: Results) -> list[str]:
    """What was requested only if possible, and was not possible."""
    return results.footers[-1].skipped if results.footers else []


def describe_rounds(results: Results) -> str:
    """The rounds of a hunt as text."""
    count, cases = len(results.rounds), sum(r.cases for r in results.rounds)
    cut = "" if results.rounds[-1].whole else ", the last one ended by the time"
    return f"{count} round{'s'[: count > 1]} ({describe_seeds(results)}{cut}): {cases} cases"


def describe_seeds(results: Results) -> str:
    """The seeds of a hunt's rounds as text."""
    numbers = sorted(r.seed for r in results.rounds)
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    neighbours = numbers[-1] - numbers[0] + 1 == len(numbers)
    return "seeds " + (f"{numbers[0]} to {numbers[-1]}" if neighbours else ", ".join(map(str, numbers)))


def known_lines(results: Results, known_bugs: Ledger) -> list[str]:
    """The ledger entries that showed, with the number of failures that each explains on each target."""
    blamed = {a.name: a.text for a in results.probes if a.answer == "wrong"}
    titles = {e.id: "; ".join(filter(None, (e.title, blamed.get(e.probe)))) for e in known_bugs.entries}
    shown: dict[str, Counter[str]] = {}
    for verdict in results.verdicts:
        for entry, count in verdict.known.items():
            shown.setdefault(entry, Counter())[verdict.target] += count
    return [
        f"{entry}: {titles.get(entry, '')} ({_failures_by_target(counts)})" for entry, counts in sorted(shown.items())
    ]


def _failures_by_target(counts: Counter[str]) -> str:
    """The number of failures by target; for many targets, their sum and the first and last target."""
    if len(counts) <= FEW:
        return ", ".join(f"{t}: {n} failures" for t, n in counts.items())
    first, *_, last = counts
    return f"{counts.total()} failures on {len(counts)} targets, {first} to {last}"
