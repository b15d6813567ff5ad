"""The record of a run of :mod:`tests.cuda_run`, as it goes into docs/cuda.md: device, versions, parts, verdicts,
probes and differences.

A gate that left no results is named. The results of an interrupted gate are used as far as they go.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from timm_conformance.errors import UserError
from timm_conformance.report import publish
from timm_conformance.report.terminal import cell_counts, verdict_label
from timm_conformance.results import records
from timm_conformance.results.diffing import Difference, difference
from timm_conformance.results.merging import merge_results
from timm_conformance.results.records import Results, Verdict
from timm_conformance.runner.plan import INTERRUPTED

REHEARSAL = "# A rehearsal: nothing ran on CUDA, the CPU took its place"
_PACKAGES = ("numpy", "hypothesis", "pytest", "torchvision", "timm-conformance")


def write(folder: Path, parts: Sequence[tuple[str, str]], rehearsed: bool) -> Path:
    """Write ``folder/record.md`` from the results in ``folder/cpu`` and ``folder/cuda``; ``parts`` are names with their ends."""
    lines = [REHEARSAL, ""] if rehearsed else []
    lines += ["| date | device | driver | torch, CUDA | Python |", "|---|---|---|---|---|"]
    versions = f"{torch.__version__}, {torch.version.cuda or torch.version.hip}"
    lines.append(f"| {date.today()} | {_device()} | {_driver()} | {versions} | {platform.python_version()} |")
    lines += ["", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)]
    lines += ["", "| part | end |", "|---|---|", *(f"| {name} | {told} |" for name, told in parts)]
    cpu, cuda = (_read(folder / name) for name in ("cpu", "cuda"))
    lines += ["", *_verdicts(cpu, cuda), ""]
    lines += [f"- {answer.describe()}" for answer in dict.fromkeys((*cpu.probes, *cuda.probes))]
    lines += ["", *_differences(cpu, cuda)]
    record = folder / "record.md"
    record.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return record


def _device() -> str:
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"


def _driver() -> str:
    """The driver's version by nvidia-smi; a dash where there is none."""
    if shutil.which("nvidia-smi") is None:
        return "–"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "–"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "–"


def complete(folder: Path) -> None:
    """Write the results of a gate that was killed before it wrote them, from what its workers have reported."""
    parts = [Results(records.read(file)) for file in sorted((folder / "parts").glob("*.ndjson"))]
    if parts and not (folder / publish.RESULTS).is_file():
        merge_results(parts).write(folder / publish.RESULTS)


def _read(folder: Path) -> Results:
    try:
        return publish.read(folder)
    except UserError:  # the gate ended before it wrote anything
        return Results()


def _verdicts(cpu: Results, cuda: Results) -> list[str]:
    lines = ["| target | CPU | CUDA |", "|---|---|---|"]
    for target in dict.fromkeys((*cpu.targets, *cuda.targets)):
        told = [
            ", ".join(verdict_label(*counted) for counted in cell_counts(found.of(target))) for found in (cpu, cuda)
        ]
        lines.append(f"| {target} | {told[0] or 'not judged'} | {told[1] or 'not judged'} |")
    return lines


def _differences(cpu: Results, cuda: Results) -> list[str]:
    missing = [name for name, found in (("CPU", cpu), ("CUDA", cuda)) if not found.verdicts]
    if missing:
        return [f"No differences can be told: the gate on {' and on '.join(missing)} left no results."]
    judged = [{_cell(v) for v in found.verdicts if v.reason != INTERRUPTED} for found in (cpu, cuda)]
    one_sided = len(judged[0] ^ judged[1])
    found = [d for d in difference(cpu, cuda) if not d.invariant or _cell(d) in judged[0] & judged[1]]
    lines = [f"Differences between the CPU and CUDA: {len(found)}."]
    if one_sided:
        lines.append(f"Not compared, because the time was over on one of them: {one_sided} verdicts.")
    return [
        *lines,
        "",
        *(f"- {d.target} {':'.join(filter(None, (d.family, d.invariant)))}: {d.text}" for d in found),
    ]


def _cell(of: Verdict | Difference) -> tuple[str, str, str]:
    return of.target, of.family, of.invariant
