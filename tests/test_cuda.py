"""Devices: what needs CUDA runs there or says so; what the meta device can prove is proven everywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from tests.small_vit import ARCH
from timm_conformance import reference
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.cases.selection import Selection
from timm_conformance.checkpoints import state_dicts
from timm_conformance.cli import main as cli
from timm_conformance.engine.judging import judge
from timm_conformance.engine.session import Session, judging_settings
from timm_conformance.families import FAMILIES, READ
from timm_conformance.invariants import INVARIANTS
from timm_conformance.report import publish
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target
from timm_conformance.trials.trial import Trial

CASE = Case("openai_clip", {**ARCH, "pre_norm": True}, Geometry((4, 4), (3, 3)), Geometry((6, 2), (2, 5)))
_NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


def test_the_reference_resamples_on_the_meta_device():
    """Shapes, dtype and device come out right without any data."""
    loader = Loader(parse_target("reference"))
    trial = Trial(FAMILIES["openai_clip"], CASE, loader, checkpoint_device="meta")
    assert {k: v.shape for k, v in trial.state.items()} == {k: v.shape for k, v in trial.expected.items()}
    assert {v.device.type for v in trial.state.values()} == {"meta"}


@_NO_CUDA
def test_device_cuda_without_cuda_is_one_line(tmp_path):
    """Asking for CUDA where there is none is a mistake, never a silent CPU run."""
    command = [
        sys.executable,
        "-m",
        "timm_conformance.cli.main",
        "run",
        "reference",
        "--device",
        "cuda",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "no CUDA device is visible" in done.stdout + done.stderr


@_NO_CUDA
def test_device_auto_says_what_it_skipped(tmp_path):
    """On the terminal, in the results and in every report made of them."""
    asked = ["run", "reference", "--family", "aimv2", "--profile", "smoke", "--device", "auto", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.main, asked)
    found = publish.read(tmp_path)
    (line,) = found.footers[-1].skipped
    assert line.startswith(f"not run on CUDA, because torch sees no device: {len(INVARIANTS)} invariants on 1 targets")
    for text in (done.output, *((tmp_path / name).read_text() for name in (publish.SUMMARY, publish.REPORT))):
        assert line in text


@_NO_CUDA
def test_the_tests_of_cuda_fail_where_cuda_is_asked_for():
    """Skipped in sight without a device; under ``--device cuda`` that is a failure."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__, "-m", "cuda", "-k", "agree"]
    without, asked = (
        subprocess.run([*command, *more], capture_output=True, text=True, timeout=200)
        for more in ([], ["--device", "cuda"])
    )
    assert without.returncode == 0
    assert "needs a CUDA device: none is visible to torch" in without.stdout
    assert asked.returncode == 1
    assert "--device cuda: no CUDA device is visible to torch" in asked.stdout


def test_nothing_touches_cuda_before_workers_are_forked():
    """A process that has asked for CUDA devices cannot be forked: CUDA then works in none of its children."""
    code = """
import torch

def touched(*args, **kwargs):
    raise AssertionError("CUDA was asked for before the fork")

for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_properties"):
    setattr(torch.cuda, name, touched)
from timm_conformance.runner import forkserver
forkserver.preload()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_off_while_judging_and_as_it_was_afterwards(allowed):
    """TF32 keeps 10 bits of a factor, the bounds expect float32's 23."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        with judging_settings():
            assert [backend.allow_tf32 for backend in backends] == [False, False]
        assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
    finally:
        for backend, was in zip(backends, before):
            backend.allow_tf32 = was


@pytest.mark.cuda
@pytest.mark.parametrize("target", ["reference", f"timm=={MODEL_RELEASE}"])
@pytest.mark.parametrize("name", READ)
def test_every_invariant_holds_on_cuda(name, target, gpu):
    """With checkpoint and model on the GPU every invariant is as the ledger says."""
    session = Session(parse_target(target), Selection((name,), profile="smoke", device=gpu))
    verdicts = session.explore(name).values()
    assert {v.invariant: v.failures or v.reason for v in verdicts if v.verdict in ("fail", "error")} == {}


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cpu_and_cuda_agree_within_the_bound(dtype, gpu):
    """The same checkpoint loads into the same tensors on either device."""
    case = Case(CASE.family, CASE.arch, CASE.source, CASE.destination, dtype=dtype)
    trials = [Trial(FAMILIES[case.family], case, Loader(parse_target("reference"), device=d)) for d in ("cpu", gpu)]
    with judging_settings(gpu):
        for trial in trials:
            assert judge(INVARIANTS["reference-agreement"], trial).outcome == "pass"
        there, here = trials
        assert {v.device.type for v in here.state.values()} == {gpu}
        assert list(here.compare_all(here.state, there.state, lambda name: 2 * here.bound(name))) == []


def test_a_checkpoint_on_another_device_is_copied_not_moved():
    """Placing a checkpoint never changes the caller's."""
    state = state_dicts.truth(FAMILIES["openai_clip"], CASE)
    placed = state_dicts.copy({"model": state, "epoch": 1}, "meta")
    assert placed["model"]["cls_token"].device.type == "meta"
    assert state["cls_token"].device.type == "cpu"
    assert reference.unwrap({"model": state, "epoch": 1}).keys() == state.keys()
