"""``summary.md``: the same picture for a CI job summary."""

from __future__ import annotations

from ..results import Results, Verdict
from .terminal import MARKS, cell_counts, denominator, known_lines


def _cell(verdicts: list[Verdict]) -> str:
    counts = cell_counts(verdicts)
    if counts == [("not-applicable", len(verdicts))]:
        return verdicts[0].reason or "n/a"
    return ", ".join(f"{MARKS[name][0]} {count} {MARKS[name][1]}" for name, count in counts) or "–"


def summary(
    results: Results, targets: list[str], families: list[str], titles: dict[str, str], gaps: list[str], code: int
) -> str:
    """The run as Markdown: verdict table, new failures, known bugs, gaps, environment."""
    meaning = {
        0: "as the ledger says",
        1: "new failures",
        2: "a target could not run",
        3: "vacuous: something was not judged",
    }
    lines = [f"# timm-conformance: {meaning[code]}", "", "| family | " + " | ".join(targets) + " |"]
    lines.append("|---" * (len(targets) + 1) + "|")
    lines += [f"| {f} | " + " | ".join(_cell(results.of(t, f)) for t in targets) + " |" for f in families]
    sections = {
        "New failures": [
            f"`{v.target}` `{f.fingerprint}`: {f.message} ({f.case.describe()})"
            for v in results.verdicts
            if v.verdict == "fail"
            for f in v.failures
        ],
        "Errors": sorted({f"`{v.target}`: {v.reason}" for v in results.verdicts if v.verdict == "error"}),
        "Ledger surprises": [
            f"`{w.target}` {w.id} {w.replay}: {w.message}" for w in results.witnesses if not w.expected
        ],
        "Known bugs that showed": known_lines(results, titles),
        "Not judged": gaps,
        "Denominator": denominator(results),
        "Environment": [
            f"{h.target}: timm {h.timm}, torch {h.torch}, Python {h.python}, {h.device}, profile {h.profile}, seed {h.seed}, "
            f"shims: {', '.join(h.shims) or 'none'}"
            for h in results.headers
        ],
    }
    for title, items in sections.items():
        if items:
            lines += ["", f"## {title}", "", *(f"- {item}" for item in items)]
    return "\n".join(lines) + "\n"
