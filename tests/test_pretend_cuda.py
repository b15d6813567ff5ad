"""Every invariant with checkpoint and model on a device other than the CPU, without a GPU: on the pretend device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from tests import torch_internals
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.entries import DEFAULT_LEDGER, REPRODUCERS, load_ledger
from timm_conformance.results import records
from timm_conformance.results.records import Results
from timm_conformance.targets import releases
from timm_conformance.targets.target import MODEL_RELEASE

pytestmark = pytest.mark.skipif(
    torch_internals.setup_python_backend is None, reason="this torch has no backends written in Python"
)
_SHARES = 4  # one process judges a share of the families: the limit of a test is 5 minutes
TARGETS = ("reference", f"timm=={MODEL_RELEASE}", "timm==0.9.16")
# A family of each of timm's loader functions; for the reference, of each way to resample.
ONE_EACH = {
    TARGETS[0]: {"openai_clip", "beit", "swin_v2", "sam", "google_npz", "radio", "naflex_vit"},
    TARGETS[1]: {
        "openai_clip",
        "beit3",
        "google_npz_resnet",
        "eva02",
        "beit",
        "swin_v2",
        "sam",
        "relpos",
        "mobileclip",
        "naflex_vit",
        "naflex_npz",
    },
}
_WORKER = "tests.pretend_cuda_worker"


def judged(tmp_path: Path, target: str, *families: str) -> Results:
    """The records of a target judged on the pretend device."""
    report = tmp_path / "report.ndjson"
    command = [sys.executable, "-m", _WORKER, str(report), target, *families]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr[-2000:]
    found = Results(records.read(report))
    assert [h.device for h in found.headers] == ["pretend"]
    return found


def holds(tmp_path: Path, target: str, families: list[str]) -> None:
    """Verdicts and witnesses are as the ledger says, with no error of the suite's own; each family loads off the CPU."""
    found = judged(tmp_path, target, *families)
    surprises = {(v.family, v.invariant): v.verdict for v in found.verdicts if v.verdict in ("fail", "error", "fixed")}
    assert surprises == {}
    assert {w.id: w.replay for w in found.witnesses if not w.expected} == {}
    assert len(found.verdicts) == len(families) * len(INVARIANTS)
    if target == "reference":
        kept = {v.family for v in found.verdicts if v.invariant == "device-kept" and v.verdict == "pass"}
        assert kept == {name for name in families if not FAMILIES[name].in_place}


@pytest.mark.parametrize("target", ONE_EACH)
def test_every_invariant_holds_off_the_cpu(tmp_path, target):
    holds(tmp_path, target, [name for name in FAMILIES if name in ONE_EACH[target]])


@pytest.mark.parametrize("share", range(_SHARES))
@pytest.mark.parametrize("target", TARGETS)
def test_every_invariant_holds_off_the_cpu_for_every_family(request, tmp_path, target, share):
    """Minutes of work: under `--device pretend` alone."""
    if request.config.getoption("device") != "pretend":
        pytest.skip("every family on the pretend device: pytest tests/test_pretend_cuda.py --device pretend")
    holds(tmp_path, target, list(FAMILIES)[share::_SHARES])


def test_a_bug_that_shows_off_the_cpu_alone_is_known(tmp_path):
    """What the ledger says of GPUs is replayed, and seen again in drawn cases."""
    found = judged(tmp_path, "timm==0.9.16", "beit")
    assert {w.id: w.replay for w in found.witnesses}["rel-pos-tables-mix-devices"] == "fails"
    (load,) = (v for v in found.verdicts if v.invariant == "strict-load")
    assert load.known["rel-pos-tables-mix-devices"] > 0


@pytest.mark.parametrize(("release", "replay"), [("0.9.12", "fails"), ("0.9.16", "fixed")])
def test_a_kernel_on_a_gpu_is_resampled_from_0_9_16_on(tmp_path, release, replay):
    """timm's issue 2024. Before, the entry explains every failure that is new off the CPU, and hides other witnesses."""
    bug = "kernel-resample-mixes-devices"
    found = judged(tmp_path, f"timm=={release}", "timm_native")
    witnesses = {w.id: w for w in found.witnesses}
    assert witnesses[bug].replay == replay
    assert {w.id: w.replay for w in found.witnesses if not w.expected} == {}
    assert {v.invariant: v.failures for v in found.verdicts if v.verdict in ("fail", "error", "fixed")} == {}
    assert [bug in v.known for v in found.verdicts if v.invariant == "strict-load"] == [replay == "fails"]
    assert (witnesses["torch-antialias-column"].message == f"hidden by {bug}") == (replay == "fails")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "entry", [e for e in load_ledger(DEFAULT_LEDGER).entries if e.regime == ["off-cpu"]], ids=lambda e: e.id
)
def test_a_bug_of_gpus_shows_in_every_family_and_release_of_its_entry(request, entry):
    """A range claims all of them. Minutes of work: under `--device pretend` alone."""
    if request.config.getoption("device") != "pretend":
        pytest.skip("every claim of bugs on GPUs: pytest tests/test_pretend_cuda.py --device pretend")
    claimed = [r for r in releases.available() or releases.cached() if entry.names(Version(r))]
    assert claimed
    for release in claimed:
        command = [sys.executable, "-m", "tests.pretend_cuda_claims", entry.id, f"timm=={release}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        *unseen, last = done.stdout.splitlines()
        assert unseen == []
        assert last != "seen in 0 families"


def test_a_script_of_a_bug_on_gpus_shows_it():
    """The reproducer of the newest release's, on the pretend device and, where there is no fault, on the CPU."""
    script = REPRODUCERS / "naflex-npz-token-mixes-devices.py"
    code = (
        "import runpy, sys; from tests import pretend_cuda; pretend_cuda.install(); "
        "from timm_conformance.targets.target import activate, parse_target; "
        f"activate(parse_target('timm=={MODEL_RELEASE}')); sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for device, exit_code, got in (("pretend", 1, "found at least two devices"), ("cpu", 0, "on cpu: loaded")):
        command = [sys.executable, "-c", code, str(script), device]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == exit_code, done.stderr
        assert got in done.stdout


@pytest.mark.parametrize(
    ("loader", "invariant", "kind"),
    [
        ("leaves_some_behind", "device-kept", "device"),
        ("adds_a_constant_of_the_cpu", "strict-load", "raises-RuntimeError"),
        ("goes_through_numpy", "strict-load", "raises-RuntimeError"),
    ],
)
def test_a_loader_that_mixes_devices_is_caught(tmp_path, loader, invariant, kind):
    """The invariant it violates fails, no other one does, and nothing is an error of the suite."""
    found = judged(tmp_path, f"loader:{_WORKER}:{loader}", "openai_clip")
    broken = {v.invariant for v in found.verdicts if v.verdict not in ("pass", "not-applicable")}
    assert broken == {invariant}
    assert kind in {f.kind for v in found.verdicts for f in v.failures}
