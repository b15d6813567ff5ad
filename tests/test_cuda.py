"""Devices: what needs CUDA runs there or says so; what the meta device can prove is proven everywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import reference
from conformance import checkpoints
from conformance.cases import Case, Geometry
from conformance.drawing import Drawing
from conformance.engine import judge
from conformance.families import FAMILIES
from conformance.invariants import INVARIANTS
from conformance.loaders import Loader
from conformance.targets import parse_target
from conformance.trial import Trial
from tests.small_vit import ARCH

CASE = Case("openai_clip", {**ARCH, "pre_norm": True}, Geometry((4, 4), (3, 3)), Geometry((6, 2), (2, 5)))


def test_the_reference_resamples_on_the_meta_device():
    """Shapes, dtype and device come out right without any data."""
    loader = Loader(parse_target("reference"))
    trial = Trial(FAMILIES["openai_clip"], CASE, loader, checkpoint_device="meta")
    assert {k: v.shape for k, v in trial.state.items()} == {k: v.shape for k, v in trial.expected.items()}
    assert {v.device.type for v in trial.state.values()} == {"meta"}


def test_device_cuda_without_cuda_is_one_line(tmp_path):
    """Asking for CUDA where there is none is a mistake, never a silent CPU run."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    command = [sys.executable, "-m", "conformance.cli", "run", "reference", "--device", "cuda", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "no CUDA device is visible" in done.stdout + done.stderr


@pytest.mark.cuda
@pytest.mark.parametrize("name", FAMILIES)
def test_every_invariant_holds_on_cuda(name):
    """The reference keeps every promise with checkpoint and model on the GPU."""
    from conformance.engine import Explorer
    from conformance.ledger import Ledger
    from conformance.profiles import PROFILES

    loader = Loader(parse_target("reference"), device="cuda")
    verdicts = Explorer(loader, Ledger(), INVARIANTS.values(), Drawing(PROFILES["smoke"], seed=0)).explore(
        FAMILIES[name]
    )
    assert {v.invariant: v.failures for v in verdicts if v.verdict in ("fail", "error")} == {}


@pytest.mark.cuda
def test_cpu_and_cuda_agree_within_the_bound():
    """The same checkpoint loads into the same tensors on either device."""
    family = FAMILIES["openai_clip"]
    trials = [Trial(family, CASE, Loader(parse_target("reference"), device=d)) for d in ("cpu", "cuda")]
    for trial in trials:
        assert judge(INVARIANTS["reference-agreement"], trial).outcome == "pass"
    assert {v.device.type for v in trials[1].state.values()} == {"cuda"}


def test_a_checkpoint_on_another_device_is_copied_not_moved():
    """Placing a checkpoint never changes the caller's."""
    state = checkpoints.truth(FAMILIES["openai_clip"], CASE)
    placed = checkpoints.copy({"model": state, "epoch": 1}, "meta")
    assert placed["model"]["cls_token"].device.type == "meta"
    assert state["cls_token"].device.type == "cpu"
    assert reference.unwrap({"model": state, "epoch": 1}).keys() == state.keys()
