"""docs/compatibility.md, made of what the environments left in a folder."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from timm_conformance.ledger.entries import Ledger
from timm_conformance.report import publish
from timm_conformance.results.records import Results

from .comparison import Difference, differences
from .environments import Environment, Matrix
from .record import SAME_CASES, Record, read

_HEAD = """# Compatibility

<!-- `nox -s compat` writes this page. Change tests/compat/page.py instead. -->

This page says with which versions the suite was run, and whether the verdicts are the same. `nox -s compat` installs each
environment, runs `timm-conformance run --profile smoke` on the default targets with the witnesses of all known bugs, and runs a
core of the project's tests. Then it compares every verdict and every witness with those of the baseline. Another Hypothesis
draws other cases; there the cases of the baseline are compared, and the run on its own cases must end as the ledger says.

```console
$ nox -s compat
$ nox -s compat -- baseline torch-2.15
```

`tests/compat/environments.toml` lists the environments. The CI workflow runs each of them every night. An environment that
cannot be installed is skipped and named. The lower bounds in `pyproject.toml` are the oldest versions below. In the column
"shim", yes means that torchvision's compiled half does not load there, and the suite stands in for it.
"""
_HUB = """## Releases of timm and huggingface_hub

timm 0.9.0 to 1.0.20 import a name that huggingface_hub 2.0 and later do not have (`repo_type_and_id_from_hf_id`). They then say
"Hugging Face hub model specified but package not installed" where weights are to be downloaded. Local files load all the same:
`create_model(..., checkpoint_path=FILE)` was tried with huggingface_hub 2.4.0 and timm 0.9.0, 0.9.16 and 1.0.20. The suite loads
nothing but local files."""


class Row(NamedTuple):
    """One environment: what ran there, its results, and what differs from the baseline. ``missing`` says why nothing ran."""

    environment: Environment
    record: Record | None
    results: Results | None
    differences: tuple[Difference, ...]
    missing: str = ""

    @property
    def unexplained(self) -> list[str]:
        """What must not be, one line each; nothing for an environment in which nothing ran."""
        if self.record is None:
            return []
        found = [d.text for d in self.differences if not d.probes]
        if self.record.run:
            found.append(f"timm-conformance run ended with exit code {self.record.run}")
        if self.record.tests:
            found.append(f"pytest ended with exit code {self.record.tests}")
        if self.environment.shim is False and "not needed" not in self.record.shim:
            found.append(f"torchvision's compiled half should be loaded, and doctor says: {self.record.shim}")
        return found


def rows(folder: Path, matrix: Matrix, known_bugs: Ledger) -> list[Row]:
    """One row an environment, the baseline first. An environment without results has no record."""
    found: list[Row] = []
    for environment in matrix.environment:
        here = folder / environment.name
        record = read(here)
        if record is None:
            reason = _why_missing(environment, here / "missing.txt")
            found.append(Row(environment, None, None, (), reason))
            continue
        results = publish.read(here)
        same = here / SAME_CASES
        first = found[0].results if found else results
        compared = publish.read(same) if same.is_dir() else results
        differing = tuple(differences(first, compared, known_bugs)) if first is not None else ()
        found.append(Row(environment, record, results, differing))
    return found


def _why_missing(environment: Environment, told: Path) -> str:
    """Why an environment has no results; ``told`` is the file with what pip said, if it said something."""
    if told.is_file():
        return f"cannot be installed: {told.read_text(encoding='utf-8').strip()}"
    command = f"python{environment.python}"
    return "was not asked for" if shutil.which(command) else f"there is no {command} here"


def write(found: Iterable[Row], path: Path) -> None:
    """Write the page."""
    found = list(found)
    parts = [_HEAD, "## What ran", _versions(found), "## Result", _results(found), *_details(found), _HUB]
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def _table(head: str, lines: Iterable[Iterable[str]]) -> str:
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *(f"| {' | '.join(line)} |" for line in lines)])


def _versions(found: list[Row]) -> str:
    lines = []
    for row in (r for r in found if r.record):
        record = row.record
        versions = [record.versions[name] for name in ("torch", "torchvision", "numpy", "hypothesis", "pytest")]
        shim = "no" if "not needed" in record.shim else "yes"
        lines.append([f"`{row.environment.name}`", row.environment.about, record.python, *versions, shim, record.date])
    return _table(
        "| environment | for | Python | torch | torchvision | NumPy | Hypothesis | pytest | shim | date |", lines
    )


def _results(found: list[Row]) -> str:
    lines = []
    for row in (r for r in found if r.record and r.results):
        verdicts = Counter(v.verdict for v in row.results.verdicts)
        told = ", ".join(
            f"{verdicts[name]} {name}" for name in ("pass", "known", "fail", "fixed", "error") if verdicts[name]
        )
        witnesses = row.results.witnesses
        expected = sum(w.expected for w in witnesses)
        tests = ", ".join(f"{count} {name}" for name, count in row.record.counts.items() if count)
        lines.append([f"`{row.environment.name}`", told, f"{expected} of {len(witnesses)}", tests, against(row)])
    head = "| environment | verdicts | witnesses as the ledger says | tests | against the baseline |"
    return _table(head, lines)


def against(row: Row) -> str:
    """The comparison with the baseline in a few words."""
    differing = [d for d in row.differences if not d.probes]
    if differing:
        told = f"**{len(differing)} not explained**"
    else:
        told = f"equal but for {len(row.differences)} that a probe explains" if row.differences else "equal"
    return told + (", **see below**" if row.unexplained else "")


def _details(found: list[Row]) -> list[str]:
    """What was not run, and each difference."""
    parts = []
    missing = [f"- `{r.environment.name}` ({r.environment.about}): {r.missing}" for r in found if r.record is None]
    if missing:
        parts += ["Not run:", "\n".join(missing)]
    for row in found:
        if row.unexplained:
            parts += [f"`{row.environment.name}`, not explained:", "\n".join(f"- {line}" for line in row.unexplained)]
        explained = [f"- {d.text} (probe {', '.join(d.probes)})" for d in row.differences if d.probes]
        if explained:
            parts += [f"`{row.environment.name}`, explained:", "\n".join(explained)]
    return parts
