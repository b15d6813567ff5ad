"""What is run on a GPU, as far as it can be tested without one: the parts, their ends, the record, and the bundle."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from msgspec.structs import replace

from tests import cuda_bundle, cuda_record, cuda_run
from timm_conformance.cli import main as cli
from timm_conformance.report import publish
from timm_conformance.results.records import Results
from timm_conformance.targets.target import MODEL_RELEASE

TESTS = Path(__file__).resolve().parent
_SLEEPS = "import time; print('began', flush=True); time.sleep(60)"
_WRITES_ON_INTERRUPT = """
import sys, time
print('began', flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print('kept', flush=True)
"""
_IGNORES_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + _SLEEPS


def python(tmp_path: Path, name: str, code: str) -> cuda_run.Part:
    """A part that runs Python code."""
    return cuda_run.Part(name, [sys.executable, "-c", code], tmp_path / f"{name}.log")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A folder with the same small run in ``cpu`` and ``cuda``; the second one is of the CPU too."""
    folder = tmp_path_factory.mktemp("cuda")
    for name in ("cpu", "cuda"):
        asked = ["run", "reference", "--family", "aimv2", "--profile", "smoke", "--out", str(folder / name)]
        assert CliRunner().invoke(cli.main, asked).exit_code == 0
    return folder


def test_the_parts_are_the_gate_on_both_devices_and_the_tests_of_cuda(tmp_path):
    """A rehearsal differs in the device alone."""
    parts, rehearsed = (
        {p.name: p.command for p in cuda_run.parts_of(tmp_path, r, ["--seed", "7"])} for r in (False, True)
    )
    assert list(parts) == ["gate-cpu", "gate-cuda", "tests"]
    assert {f"timm=={MODEL_RELEASE}", "reference", "--seed", "7"} <= {*parts["gate-cpu"]} & {*parts["gate-cuda"]}
    devices = {name: command[command.index("--device") + 1] for name, command in parts.items()}
    assert devices == {"gate-cpu": "cpu", "gate-cuda": "cuda", "tests": "cuda"}
    replaced = {"gate-cpu": "cpu", "gate-cuda": "cpu", "tests": "rehearsal"}
    for name, command in parts.items():
        command[command.index("--device") + 1] = replaced[name]
    assert rehearsed == parts


def test_the_tests_of_cuda_are_all_in_one_file():
    """The part ``tests`` runs that file alone: other tests import packages that a machine with a GPU may lack."""
    marked = [path.name for path in TESTS.rglob("*.py") if re.search(r"^@pytest\.mark\.cuda$", path.read_text(), re.M)]
    assert marked == ["test_cuda.py"]
    assert "tests/test_cuda.py" in cuda_run.parts_of(Path(), False, [])[2].command


@pytest.mark.parametrize(
    ("given", "seconds", "rehearse", "more"),
    [
        (["out"], None, False, []),
        (["out", "--"], None, False, []),
        (["out", "--", "timm==0.9.16", "--seed", "7"], None, False, ["timm==0.9.16", "--seed", "7"]),
        (["out", "--seconds", "450", "--rehearse", "--", "--profile", "smoke"], 450, True, ["--profile", "smoke"]),
    ],
)
def test_what_follows_two_dashes_goes_to_the_gates(monkeypatch, given, seconds, rehearse, more):
    """Options of the script come before them."""
    monkeypatch.setattr(cuda_run, "run", lambda *asked: asked)
    assert cuda_run.main(given) == (Path("out"), seconds, rehearse, more)


def test_a_part_that_fails_stops_no_other(tmp_path):
    """Each has its exit code and its log."""
    parts = [python(tmp_path, "fails", "print('no'); raise SystemExit(5)"), python(tmp_path, "ends", "print('yes')")]
    cuda_run.run_together(parts, None)
    assert [(p.code, p.cut_off, p.log.read_text()) for p in parts] == [(5, False, "no\n"), (0, False, "yes\n")]


def test_what_still_runs_when_the_time_is_over_is_ended(tmp_path, monkeypatch):
    """It is interrupted, which a gate answers with what it has found. What ignores that is killed."""
    monkeypatch.setattr(cuda_run, "_GRACE", 1.0)
    codes = {"short": "print('done')", "keeps": _WRITES_ON_INTERRUPT, "ignores": _IGNORES_INTERRUPTS}
    parts = [python(tmp_path, name, code) for name, code in codes.items()]
    cuda_run.run_together(parts, 3.0)
    assert [p.cut_off for p in parts] == [False, True, True]
    assert [p.log.read_text() for p in parts] == ["done\n", "began\nkept\n", "began\n"]
    assert [p.code for p in parts] == [0, 0, -9]
    assert "cut off because the time was over" in parts[1].told


def test_a_gate_that_is_killed_leaves_what_it_has_judged(tmp_path):
    """The reports of its workers are read like results."""
    command = [sys.executable, "-m", "timm_conformance.cli.main", "run", "reference", "--out", str(tmp_path / "cpu")]
    part = cuda_run.Part("gate-cpu", [*command, "--jobs", "1"], tmp_path / "gate-cpu.log")
    part.start()
    while not any(b'"verdict"' in file.read_bytes() for file in (tmp_path / "cpu" / "parts").glob("*.ndjson")):
        assert part.process.poll() is None, part.log.read_text()
        time.sleep(0.1)
    part.signal(signal.SIGKILL, group=True)
    part.process.wait()
    assert part.step()
    cuda_record.complete(tmp_path / "cpu")
    record = cuda_record.write(tmp_path, [(part.name, part.told)], False).read_text()
    assert "| gate-cpu | exit code -9 after" in record
    assert "the gate on CUDA left no results" in record
    assert re.search(r"^\| reference \| .+ pass.* \| not judged \|$", record, re.M)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_nothing_is_run(tmp_path, capsys):
    """One line and an exit code of its own."""
    assert cuda_run.main([str(tmp_path / "out")]) == 2
    assert re.fullmatch(r"no CUDA device is visible to torch \S+: nothing was run on CUDA\n", capsys.readouterr().out)
    assert not (tmp_path / "out").exists()


def test_a_rehearsal_cannot_be_taken_for_a_run(tmp_path, judged, monkeypatch):
    """Its record begins with what it is, and its exit code is never 0."""
    monkeypatch.setattr(cuda_run, "parts_of", lambda out, rehearse, more: [python(tmp_path, "tests", "pass")])
    assert cuda_run.main([str(judged), "--rehearse"]) == 3
    assert (judged / "record.md").read_text().startswith(cuda_record.REHEARSAL)
    assert (judged / "diff.txt").read_text() == "no difference\n"


def test_the_record_names_device_versions_verdicts_and_differences(judged):
    """One row for each part and target."""
    record = cuda_record.write(judged, [("tests", "exit code 0 after 3 s")], False).read_text()
    assert record.startswith("| date | device |")
    assert f"| {torch.__version__}, {torch.version.cuda or torch.version.hip} |" in record
    assert "| tests | exit code 0 after 3 s |" in record
    row = re.search(r"^\| reference \| (.+) \| (.+) \|$", record, re.M)
    assert row is not None
    assert row[1] == row[2] != "not judged"
    assert "resizes to a width of one pixel with antialias" in record
    assert record.endswith("Differences between the CPU and CUDA: 0.\n")


def test_what_one_gate_did_not_reach_is_no_difference(tmp_path, judged):
    """The record counts it. A verdict that differs is told."""
    for name in ("cpu", "cuda"):
        shutil.copytree(judged / name, tmp_path / name)
    found = publish.read(judged / "cuda")
    (first, second, *_) = (v for v in found.verdicts if v.verdict == "pass")
    other = {id(first): None, id(second): replace(second, verdict="error", reason="hung")}
    kept = (other.get(id(record), record) for record in found.records)
    Results(record for record in kept if record is not None).write(tmp_path / "cuda" / publish.RESULTS)
    record = cuda_record.write(tmp_path, [], False).read_text()
    assert "CUDA: 1.\nNot compared, because the time was over on one of them: 1 verdicts.\n" in record
    assert record.endswith(f"- reference aimv2:{second.invariant}: hung\n")


def test_the_bundle_has_all_but_torch(tmp_path):
    """pip takes the stand-in for the torch of the other machine, and other pins hold."""
    cuda_bundle.stand_in(tmp_path, "2.11.0")
    command = [sys.executable, "-m", "pip", "download", "--no-index", "--find-links", str(tmp_path), "torch==2.11.0"]
    done = subprocess.run([*command, "--dest", str(tmp_path / "got")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["torch-2.11.0+there-py3-none-any.whl"]
    pinned = {line.split("==")[0] for line in cuda_bundle.constraints()}
    assert "hypothesis" in pinned
    assert not pinned & {"torch", "torchvision"}


def test_the_script_says_how_it_is_called(tmp_path):
    """Without its two folders it runs nothing."""
    done = subprocess.run(
        ["bash", str(TESTS / "cuda_run.sh"), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 4
    assert "bash tests/cuda_run.sh BUNDLE OUT [--rehearse]" in done.stdout
