"""``summary.md``: the results for a CI job summary."""

from __future__ import annotations

from pathlib import Path

from ..errors import EXIT_INTERRUPTED
from ..ledger.entries import Ledger
from ..results.causes import by_cause, counted
from ..results.records import Results, Verdict
from .explained import replay_command, script_path, told
from .terminal import (
    FEW,
    cell_counts,
    change_lines,
    denominator,
    describe_seeds,
    errors_of,
    known_lines,
    probe_lines,
    verdict_label,
)

# Labels of what is shown as code.
_NUMBERS = ("call", "expected", "got")


def _counted(verdicts: list[Verdict]) -> str:
    return ", ".join(verdict_label(*counted) for counted in cell_counts(verdicts)) or "–"


def _cell(verdicts: list[Verdict], error: str | None) -> str:
    if error is not None and not verdicts:
        return "E cannot start"
    if verdicts and all(v.verdict == "not-applicable" for v in verdicts):
        return verdicts[0].reason or "n/a"
    return _counted(verdicts)


def _table(results: Results) -> list[str]:
    """A table with one column for each target where they are few, otherwise one row for each."""
    targets = results.targets
    if len(targets) <= FEW:
        rows = [[f, *(_cell(results.of(t, f), results.errors.get(t)) for t in targets)] for f in results.families]
        heads = ["family", *targets]
    else:
        changed = {t: [c.family for c in results.changes if c.target == t] for t in targets}
        rows = [
            [t, f"E {results.errors[t]}" if t in results.errors else _counted(results.of(t)), ", ".join(changed[t])]
            for t in targets
        ]
        heads = ["target", "invariants", "values changed since the release before"]
    return [_row(heads), "|---" * len(heads) + "|", *map(_row, rows)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _failures(results: Results) -> list[str]:
    """A list for each cause of new failures, with its script."""
    groups = by_cause(results)
    lines = ["", f"## New failures: {counted(results)}"] if groups else []
    for group in groups:
        lines += ["", f"### `{group.name[1]}` on {', '.join(group.targets)}", ""]
        lines += [f"- {label}: {f'`{text}`' if label in _NUMBERS else text}" for label, text in told(group)]
        lines += [f"- replay: `{replay_command(group)}`, in the folder of this page"]
        if group.script:
            lines += [f"- script: `{script_path(Path(), group).as_posix()}`, in the same folder"]
        if group.others:
            lines += [f"- {len(group.others)} more: " + ", ".join(f"`{name}`" for name in group.others)]
    return lines


def summary(results: Results, known_bugs: Ledger, gaps: list[str], code: int) -> str:
    """The results as Markdown: verdict table, new failures, value changes, known bugs, probes, gaps, environment."""
    meaning = {
        0: "as the ledger says",
        1: "new failures",
        2: "a target could not run",
        3: "vacuous: something was not judged",
        EXIT_INTERRUPTED: "interrupted: the rest was not judged",
    }
    sections = {
        "Errors": sorted(
            f"`{target}`{'' if count else ' cannot start'}: {reason}" for target, reason, count in errors_of(results)
        ),
        "Ledger surprises": [
            f"`{w.target}` {w.id} {w.replay}: {w.message}" for w in results.witnesses if not w.expected
        ],
        "Values changed, pass or fail": change_lines(results),
        "Known bugs that showed": known_lines(results, known_bugs),
        "Probes of the libraries": probe_lines(results),
        "Not judged": gaps,
        "Denominator": denominator(results),
        "Environment": [
            f"{h.target}: timm {h.timm}, torch {h.torch}, Python {h.python}, {h.device}, profile {h.profile}, "
            f"{describe_seeds(results) if results.rounds else f'seed {h.seed}'}, "
            f"shims: {', '.join(h.shims) or 'none'}"
            for h in results.headers
        ],
    }
    lines = [f"# timm-conformance: {meaning[code]}", "", *_table(results), *_failures(results)]
    for title, items in sections.items():
        if items:
            lines += ["", f"## {title}", "", *(f"- {item}" for item in items)]
    return "\n".join(lines) + "\n"
