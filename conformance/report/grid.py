"""Results by family and target: the text of the cells of ``report.html``, and the data of opened cells."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from packaging.version import InvalidVersion, Version

from ..ledger.entries import Ledger
from ..results.records import Change, Results, Verdict
from .terminal import MARKS, cell_counts, short_reason, verdict_label

OUTCOMES = ("fail", "error", "known", "pass", "blocked", "not-applicable")
_ORDER = list(MARKS)
# With more targets than this a cell shows only its worst verdict.
_ROOMY = 4


def short(target: str) -> str:
    """A target as a column heading: the bare version of a release."""
    return target.removeprefix("timm==")


def figure(value: float | None) -> str:
    """An error as a fraction of its bound, to three digits."""
    return "" if value is None else f"{value:.3g}"


def word(verdict: str) -> str:
    """A verdict or an outcome as text."""
    return verdict.replace("-", " ")


def _position(target: str, place: int) -> tuple[bool, Version, int]:
    """Sort key of a target: releases by version, then all others in the order in which they were named."""
    try:
        return False, Version(target.removeprefix("timm==")), place
    except InvalidVersion:
        return True, Version("0"), place


class Grid:
    """The results by family and target; releases in order of version."""

    def __init__(self, results: Results) -> None:
        self.results = results
        places = {t: _position(t, i) for i, t in enumerate(results.targets)}
        self.targets = sorted(places, key=places.__getitem__)
        self.families = results.families
        self.errors = results.errors
        self.cells: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
        for verdict in results.verdicts:
            self.cells[verdict.family, verdict.target].append(verdict)
        self.changes: dict[tuple[str, str], Change] = {(c.family, c.target): c for c in results.changes}
        self.loads = {t: [c for load in results.loads if load.target == t for c in load.cases] for t in self.targets}
        self.invariants = sorted({v.invariant for v in results.verdicts})
        self.roomy = len(self.targets) <= _ROOMY

    def cell(self, family: str, target: str) -> dict[str, Any] | None:
        """What the map shows of a cell, or None for one that was not run."""
        verdicts = self.cells.get((family, target), [])
        if not verdicts:
            if target not in self.errors:
                return None
            label = f"{family}, {target}: error, {self.errors[target]}"
            return {"verdict": "error", "shade": 0, "changed": False, "labels": ["E"], "label": label}
        counts = cell_counts(verdicts)
        worst, many = counts[0]
        text = ", ".join(f"{count} {word(name)}" for name, count in counts)
        labels = [verdict_label(*counted) for counted in counts]
        if not self.roomy:
            labels = [f"{MARKS[worst][0]}{many if worst != 'not-applicable' else ''}"]
        reasons = {v.reason for v in verdicts}
        if worst == "not-applicable" and len(reasons) == 1 and verdicts[0].reason:
            text = f"not applicable, {verdicts[0].reason}"
            labels = [f"– {short_reason(verdicts[0].reason)}" if self.roomy else "–"]
        change = self.changes.get((family, target))
        since = f"; values changed since {short(change.previous)}" if change else ""
        share = many / sum(count for name, count in counts if name != "not-applicable") if worst == "known" else 0
        return {
            "verdict": worst,
            "shade": sum(share > step for step in (0, 0.2, 0.4)),
            "changed": change is not None,
            "labels": labels,
            "label": f"{family}, {target}: {text}{since}",
        }

    def spans(self, targets: Iterable[str]) -> str:
        """Targets as text, with neighbours as one span: ``0.9.0 to 0.9.16, reference``."""
        chosen = set(targets)
        runs: list[list[str]] = []
        for before, target in zip([None, *self.targets], self.targets):
            if target in chosen:
                if runs and before in chosen:
                    runs[-1].append(target)
                else:
                    runs.append([target])
        return ", ".join(f"{short(r[0])} to {short(r[-1])}" if len(r) > 2 else ", ".join(map(short, r)) for r in runs)


class _Distinct:
    """Numbers distinct values in order of appearance; equal values have the same number."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[str, int] = {}

    def __call__(self, item: Any) -> int:
        key = json.dumps(item)
        if key not in self._places:
            self._places[key] = len(self.items)
            self.items.append(item)
        return self._places[key]


def page_data(grid: Grid, failures: list[dict[str, Any]], known_bugs: Ledger) -> dict[str, Any]:
    """The data from which the page's script builds an opened cell.

    A row is ``[invariant, verdict, cases by outcome, worst, reason, {entry: cases}, [failure]]``. All of these except
    ``worst`` and the counts are indices into the other lists. A cell lists its rows; cells come family by family.
    """
    rows, reasons, entries = _Distinct(), _Distinct(), _Distinct()
    invariants = {name: i for i, name in enumerate(grid.invariants)}
    places = {(f["fingerprint"], f["message"], f["case"]): i for i, f in enumerate(failures)}

    def row(v: Verdict) -> int:
        return rows(
            [
                invariants[v.invariant],
                _ORDER.index(v.verdict),
                [v.cases.get(outcome, 0) for outcome in OUTCOMES],
                None if v.worst is None else float(f"{v.worst:.3g}"),
                reasons(v.reason),
                {entries(entry): count for entry, count in v.known.items()},
                [places[f.fingerprint, f.message, f.case.to_json()] for f in v.failures],
            ]
        )

    pairs = [(family, target) for family in grid.families for target in grid.targets]
    return {
        "targets": grid.targets,
        "families": grid.families,
        "invariants": grid.invariants,
        "verdicts": [[name, MARKS[name][0], word(name)] for name in _ORDER],
        "outcomes": [word(outcome) for outcome in OUTCOMES],
        "cells": [[row(v) for v in grid.cells.get(pair, ())] for pair in pairs],
        "rows": rows.items,
        "reasons": reasons.items,
        "entries": [[entry, known.title if (known := known_bugs.entry(entry)) else ""] for entry in entries.items],
        "failures": [[f["fingerprint"], f["message"], figure(f["fraction"]), f["cause"]] for f in failures],
        "changes": {
            i: [short(c.previous), c.cases, c.compared, figure(c.largest), c.tensors]
            for i, pair in enumerate(pairs)
            if (c := grid.changes.get(pair))
        },
        "errors": {grid.targets.index(target): reason for target, reason in grid.errors.items()},
    }
