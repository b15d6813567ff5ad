"""``report.html``: one self-contained page, readable without a network, without colour and without JavaScript.

The details of cells are embedded as data (``grid.page_data``); everything else is in the page as text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..ledger.entries import Ledger
from ..ledger.witnesses import witness_text
from ..results.causes import by_cause, counted
from ..results.records import Results
from . import plot
from .explained import replay_command, script_path, told
from .grid import OUTCOMES, Grid, figure, page_data, short, word
from .terminal import MARKS, describe_rounds, errors_of, judgements, skipped

_HERE = Path(__file__).resolve().parent


def render(results: Results, known_bugs: Ledger, gaps: Sequence[str] = ()) -> str:
    """The page as HTML.

    ``results`` may be of one target or of every release, complete or cut off. ``known_bugs`` explains the known bugs, and
    ``gaps`` are the invariants that were not checked, one line each (``outcome.vacuous``).
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.globals["marks"] = {name: mark for name, (mark, _, _) in MARKS.items()}
    environment.globals["words"] = {name: word(name) for name in MARKS}
    environment.filters["short"] = short
    environment.filters["figure"] = figure
    environment.filters["plural"] = plural
    grid = Grid(results)
    failures = _failures(grid)
    return environment.get_template("report.html.j2").render(
        grid=grid,
        counts=Counter(v.verdict for v in results.verdicts),
        headline=_headline(results, gaps),
        footer=results.footers[-1] if results.footers else None,
        data=page_data(grid, failures, known_bugs),
        failures=failures,
        groups=_groups(grid),
        counted=counted(results),
        known=_known(grid, known_bugs),
        surprises=[w for w in results.witnesses if not w.expected],
        errors=errors_of(results),
        gaps=list(gaps),
        changes=_changes(grid),
        panels=plot.panels(grid.loads),
        medians=plot.medians(grid.loads),
        bins=plot.BINS,
        outcomes=OUTCOMES,
        denominator=[(target, judgements(results.of(target))) for target in grid.targets],
        hunted=describe_rounds(results) if results.rounds else "",
        skipped=skipped(results),
        regimes=_regimes(grid),
        environment=_environment(grid),
        css=(_HERE / "report.css").read_text(encoding="utf-8"),
        js=(_HERE / "report.js").read_text(encoding="utf-8"),
    )


def plural(count: int, noun: str) -> str:
    """``1 release``, ``2 releases``; a noun in -y takes -ies."""
    many = f"{noun[:-1]}ies" if noun.endswith("ry") or noun.endswith("ly") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


def _headline(results: Results, gaps: Sequence[str]) -> dict[str, str]:
    """The outcome of the run in one sentence, with its mark and style."""
    verdicts = Counter(v.verdict for v in results.verdicts)
    surprises = sum(not w.expected and w.replay != "error" for w in results.witnesses) + verdicts["fixed"]
    errors = sum(not w.expected and w.replay == "error" for w in results.witnesses) + verdicts["error"]
    code = results.footers[-1].exit_code if results.footers else None
    parts = [
        (counted(results, "new failure") or plural(1, "new failure"), verdicts["fail"], "fail"),
        (plural(surprises, "ledger surprise"), surprises, "fixed"),
        (plural(errors, "error"), errors, "error"),
        (plural(len(results.errors), "target") + " could not be judged", len(results.errors), "error"),
        (plural(len(gaps), "invariant") + " not checked", len(gaps), "error"),
    ]
    shown = [(text, tone) for text, count, tone in parts if count]
    if not shown and code:
        shown = [("Vacuous: something was not judged" if code == 3 else "Not as the ledger says", "error")]
    if not shown and not results.verdicts:
        shown = [("Nothing was judged", "error")]
    text = ", ".join(text for text, _ in shown) or "Everything is as the ledger says"
    tone = shown[0][1] if shown else "pass"
    if code is None:
        text, tone = f"Cut off before its end. So far: {text[0].lower()}{text[1:]}", tone if shown else "error"
    return {"text": text, "tone": tone, "mark": MARKS[tone][0]}


def _failures(grid: Grid) -> list[dict[str, Any]]:
    """Each new failure once, as an opened cell shows it, with the number of its cause."""
    causes = {n.failure.fingerprint: i for i, group in enumerate(by_cause(grid.results)) for n in group.failures}
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for target in grid.targets:
        for family in grid.families:
            for verdict in grid.cells.get((family, target), ()):
                for failure in verdict.failures:
                    case = failure.case.to_json()
                    new: dict[str, Any] = {
                        "fingerprint": failure.fingerprint,
                        "message": failure.message,
                        "case": case,
                        "cause": causes[failure.fingerprint],
                        "fraction": None,
                    }
                    entry = found.setdefault((failure.fingerprint, failure.message, case), new)
                    entry["fraction"] = max(entry["fraction"] or 0, failure.fraction or 0) or None
    return list(found.values())


def _groups(grid: Grid) -> list[dict[str, Any]]:
    """Each cause of new failures once, with all targets on which it shows."""
    return [
        {
            "fingerprint": group.shown.failure.fingerprint,
            "rows": told(group),
            "where": grid.spans(group.targets),
            "shrunk": group.shown.failure.shrunk,
            "cases": group.cases,
            "others": group.others,
            "command": replay_command(group),
            "witness": witness_text(group.shown.invariant, group.shown.failure).rstrip(),
            "script": group.script.rstrip(),
            "path": script_path(Path(), group).as_posix(),
        }
        for group in by_cause(grid.results)
    ]


def _known(grid: Grid, known_bugs: Ledger) -> list[dict[str, Any]]:
    """The ledger entries that showed, in a judged case or in their own witness."""
    shown: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for (family, target), verdicts in grid.cells.items():
        for verdict in verdicts:
            for entry, count in verdict.known.items():
                shown[entry][family, target] += count
    replays: dict[str, dict[tuple[Any, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for witness in grid.results.witnesses:
        said = (witness.replay, witness.message, figure(witness.fraction), witness.expected)
        replays[witness.id][said].append(witness.target)
    failing = {entry for entry, said in replays.items() if any(replay == "fails" for replay, *_ in said)}
    ids = [e.id for e in known_bugs.entries if e.id in shown or e.id in failing]
    ids += sorted((set(shown) | failing) - set(ids))
    return [
        {
            "id": name,
            "entry": entry,
            "count": shown[name].total(),
            "targets": grid.spans(target for _, target in shown[name]),
            "families": [f for f in grid.families if any(f == family for family, _ in shown[name])],
            "words": known_bugs.witnesses[name].case.describe() if name in known_bugs.witnesses else "",
            "replays": [
                {"replay": r, "message": m, "fraction": f, "expected": e, "targets": grid.spans(targets)}
                for (r, m, f, e), targets in replays[name].items()
            ],
            "blamed": "; ".join(
                a.describe() for a in grid.results.probes if entry is not None and a.name == entry.probe
            ),
            "script": entry.script.read_text(encoding="utf-8")
            if entry is not None and entry.script is not None
            else "",
        }
        for name, entry in ((name, known_bugs.entry(name)) for name in ids)
    ]


def _changes(grid: Grid) -> list[dict[str, Any]]:
    """Value changes, release by release."""
    found = []
    for target in grid.targets:
        changed = [grid.changes[f, target] for f in grid.families if (f, target) in grid.changes]
        if changed:
            found.append({"target": target, "previous": changed[0].previous, "families": changed})
    return found


def _regimes(grid: Grid) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """The judged cases of every regime that an invariant must meet, by target: ``0`` if excused, ``0 !`` if not."""
    must: dict[str, dict[str, None]] = defaultdict(dict)
    for header in grid.results.headers:
        for invariant, regimes in header.invariants.items():
            must[invariant].update(dict.fromkeys(regimes))
    run = {(v.target, v.invariant) for v in grid.results.verdicts}

    def row(regime: str, found: list[tuple[Counter[str], set[str]] | None]) -> tuple[str, list[str]]:
        return regime, ["–" if f is None else str(f[0][regime] or ("0" if regime in f[1] else "0 !")) for f in found]

    table = []
    for invariant, wanted in sorted(must.items()):
        found = [grid.results.met(t, invariant) if (t, invariant) in run else None for t in grid.targets]
        if wanted:
            table.append((invariant, [row(regime, found) for regime in wanted]))
    return table


def _environment(grid: Grid) -> dict[str, Any]:
    """The environment that all targets share, and a row for each target with what differs."""
    rows = [
        {
            "target": h.target,
            "timm": h.timm,
            "Python": h.python,
            "torch": h.torch,
            "platform": h.platform,
            "device": h.device,
            "shims in use": ", ".join(h.shims) or "none",
            "probes": "; ".join(answer.describe() for answer in h.probes),
            "profile": h.profile,
            "whole profile for each family": "yes" if h.focused else "no",
            "seed": str(h.seed),
            "suite digest": h.suite,
            "source digest": h.source,
        }
        for h in sorted(grid.results.headers, key=lambda h: grid.targets.index(h.target))
    ]
    names = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    shared = [n for n in names if n not in ("target", "timm") and len({row[n] for row in rows}) == 1]
    own = [n for n in names if n not in shared]
    return {"shared": [(n, rows[0][n]) for n in shared], "own": own, "rows": [[row[n] for n in own] for row in rows]}
