"""Runs the suite and the core of the tests in this environment, and writes down what ran: ``python -m tests.compat.record``.

The arguments are the name of the environment and a folder for all of them. ``FOLDER/NAME`` then holds ``results.ndjson`` of the
run with its reports, ``doctor.txt``, ``tests.xml`` and ``record.json``. Another Hypothesis draws other cases. An environment
with another Hypothesis than the baseline's therefore also judges the baseline's cases, in ``FOLDER/NAME/same-cases``.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from timm_conformance.cases.profiles import PROFILES
from timm_conformance.cases.selection import Selection
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.families import FAMILIES
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.report import publish
from timm_conformance.runner.plan import Plan
from timm_conformance.runner.run import run as run_plan
from timm_conformance.targets.target import DEFAULT_TARGETS

from . import environments

_TOLD = ("torch", "torchvision", "numpy", "hypothesis", "pytest")
_PROFILE = "smoke"
_TIMEOUT = 1800  # seconds for one test, more than elsewhere: environments may run side by side
NAME = "record.json"
CASES = "cases"
SAME_CASES = "same-cases"


class Record(msgspec.Struct, frozen=True):
    """What ran in one environment.

    versions    of the packages that the page names
    shim        the line of ``doctor`` about the shim for torchvision
    run, tests  exit codes of ``timm-conformance run`` and of pytest
    counts      tests by result: passed, failed (errors among them), skipped
    """

    name: str
    date: str
    python: str = ""
    versions: dict[str, str] = {}
    shim: str = ""
    run: int = 0
    tests: int = 0
    counts: dict[str, int] = {}
    seconds: float = 0.0


def today() -> str:
    """The date of now, in UTC."""
    return datetime.now(timezone.utc).date().isoformat()


def counts(junit: Path) -> dict[str, int]:
    """Tests by result, of pytest's JUnit XML; a missing file has none."""
    if not junit.is_file():
        return {}
    told = next(ElementTree.parse(junit).getroot().iter("testsuite")).attrib
    total, skipped = int(told["tests"]), int(told["skipped"])
    failed = int(told["failures"]) + int(told["errors"])
    return {"passed": total - failed - skipped, "failed": failed, "skipped": skipped}


def _command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _shim(folder: Path) -> str:
    """What ``doctor`` says of the shim for torchvision; the folder keeps all that it says."""
    doctor = subprocess.run(_command("timm_conformance.cli.main", "doctor"), capture_output=True, text=True)
    (folder / "doctor.txt").write_text(doctor.stdout + doctor.stderr, encoding="utf-8")
    return next((line.partition(" ")[2].strip() for line in doctor.stdout.splitlines() if line.startswith("shim")), "")


def _draw(cases: Path) -> None:
    """Keep the cases of the baseline, which ``run`` draws too."""
    for path in cases.glob("*.json"):
        path.unlink()
    cases.mkdir(parents=True, exist_ok=True)
    drawing = Drawing(PROFILES[_PROFILE], seed=0, focused=False, folder=cases)
    for family in FAMILIES.values():
        drawing.cases(family)


def _judge(cases: Path, out: Path) -> int:
    """Judge the cases of a folder on the default targets; returns the exit code."""
    known_bugs = load_ledger(DEFAULT_LEDGER)
    selection = Selection(profile=_PROFILE)
    plan = Plan(tuple(DEFAULT_TARGETS), selection, jobs=os.cpu_count() or 1, cases=cases)
    found, gaps, code = publish.conclude([run_plan(plan)], known_bugs, DEFAULT_TARGETS)
    publish.publish(found, gaps, code, known_bugs, publish.make_folder(out))
    return code


def record(name: str, folder: Path) -> Record:
    """Run everything; returns what ``record.json`` holds."""
    started = time.monotonic()
    out = publish.make_folder(folder / name)
    versions = {package: importlib.metadata.version(package) for package in _TOLD}
    shim = _shim(out)
    smoke = ("run", "--profile", _PROFILE, "--resume", "--out", str(out))
    run = subprocess.run(_command("timm_conformance.cli.main", *smoke)).returncode
    baseline = environments.load().environment[0].name
    first = read(folder / baseline)
    if name == baseline:
        _draw(folder / CASES)
    elif first is not None and first.versions["hypothesis"] != versions["hypothesis"]:
        _judge(folder / CASES, out / SAME_CASES)
    junit = out / "tests.xml"
    junit.unlink(missing_ok=True)
    core = environments.load().core
    tests = subprocess.run(
        _command("pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", f"--timeout={_TIMEOUT}", *core)
    ).returncode
    return Record(
        name=name,
        date=today(),
        python=platform.python_version(),
        versions=versions,
        shim=shim,
        run=run,
        tests=tests,
        counts=counts(junit),
        seconds=round(time.monotonic() - started, 1),
    )


def write(told: Record, folder: Path) -> None:
    """Write ``record.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")


def read(folder: Path) -> Record | None:
    """The record of a folder; None where nothing ran."""
    path = folder / NAME
    return msgspec.json.decode(path.read_bytes(), type=Record) if path.is_file() else None


if __name__ == "__main__":
    _, environment, results = sys.argv
    write(record(environment, Path(results)), Path(results) / environment)
