"""Real input: checkpoints of open_clip's own models through timm's own ``create_model``, the three lines of timm #2120.

timm runs in one subprocess a release, open_clip in another: this process imports neither.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.small_vit import Model
from timm_conformance import reference
from timm_conformance.cases.case import Contents, Geometry
from timm_conformance.checkpoints.state_dicts import fill
from timm_conformance.families import FAMILIES
from timm_conformance.reference import BICUBIC_ANTIALIAS
from timm_conformance.reference.embeddings import resample_patch_kernel, resample_position_grid
from timm_conformance.trials import bounds
from timm_conformance.trials.problems import exact_differences

ROOT = Path(__file__).parent.parent
BROKEN, FIXED = "timm==0.9.16", "timm==1.0.31"
RELEASES = (BROKEN, FIXED)
KERNEL, GRID = "patch_embed.proj.weight", "pos_embed"

VIT = {"mlp_ratio": 4, "class_token": True, "reg_tokens": 0}
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 8, "pre_norm": True, **VIT}
BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "num_classes": 512, "pre_norm": True, **VIT}
IN21K = {"embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 21843, **VIT}
IN1K = {"embed_dim": 768, "depth": 2, "num_heads": 12, "num_classes": 1000, **VIT}


@dataclass(frozen=True)
class Line:
    """One ``create_model`` line without its patch size: model, checkpoint, what the checkpoint is."""

    name: str
    checkpoint: str
    family: str
    arch: dict[str, Any]
    image: int = 224
    overlay: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)

    def geometry(self, patch: int) -> Geometry:
        """Geometry at a patch size, the image size staying the same."""
        return Geometry((patch, patch), (self.image // patch, self.image // patch))


CLIP = "vit_base_patch16_clip_224.datacompxl"
TINY_KWARGS = {k: TINY[k] for k in ("embed_dim", "depth", "num_heads", "num_classes")} | {"img_size": 64}
LINES = {
    "tiny": Line(CLIP, "tiny", "openai_clip", TINY, 64, {"input_size": (3, 64, 64), "num_classes": 8}, TINY_KWARGS),
    "full": Line(CLIP, "full", "openai_clip", BASE),
    "in21k": Line("vit_tiny_patch16_224.augreg_in21k", "in21k", "timm_native", IN21K),
    "in1k": Line("vit_base_patch16_224.augreg2_in21k_ft_in1k", "in1k", "timm_native", IN1K, kwargs={"depth": 2}),
}
# (line, patch size, whether the reference loads it instead of timm)
JOBS = [("tiny", 16, False), ("tiny", 8, False), ("tiny", 8, True), ("full", 16, False), ("full", 8, False)]
JOBS += [("in21k", 8, False), ("in1k", 8, False)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Holds every file of this module, 2 GB at most; gone afterwards, unlike pytest's own temporary folders."""
    with tempfile.TemporaryDirectory(prefix="timm-conformance-") as name:
        yield Path(name)


def start(script: str, *arguments: str) -> subprocess.Popen:
    # One thread each: two releases run side by side, and threads that fight for a core cost more than they bring.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / script), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> None:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text


@pytest.fixture(scope="module")
def checkpoints(folder: Path) -> Path:
    """The folder, with a checkpoint file for each line."""
    towers = start("open_clip_towers.py", str(folder))
    for name in ("in21k", "in1k"):
        line = LINES[name]
        shapes = FAMILIES[line.family].shapes(line.arch, line.geometry(16))
        save_file(fill(shapes, Contents("normal", 1), torch.float32), folder / f"{name}.safetensors")
    finish(towers)
    return folder


@pytest.fixture(scope="module")
def results(checkpoints: Path) -> dict[tuple, dict[str, Any]]:
    """What came of every job on every release, by ``(release, line, patch size, by reference)``."""
    running, outputs = [], {}
    for release in RELEASES:
        jobs = []
        for name, patch, by_reference in JOBS:
            line, key = LINES[name], (release, name, patch, by_reference)
            outputs[key] = checkpoints / f"{len(outputs)}.out"
            jobs.append(
                {
                    "name": line.name,
                    "checkpoint": str(checkpoints / f"{line.checkpoint}.safetensors"),
                    "overlay": line.overlay,
                    "kwargs": {"patch_size": patch, **line.kwargs},
                    "image": str(checkpoints / f"{name}.pt") if patch == 16 else None,
                    "reference": by_reference,
                    "out": str(outputs[key]),
                }
            )
        file = checkpoints / f"{release}.json"
        file.write_text(json.dumps(jobs))
        running.append(start("real_input_worker.py", release, str(file)))
    for process in running:
        finish(process)
    return {key: torch.load(path, mmap=True, weights_only=True) for key, path in outputs.items()}


def by_reference(folder: Path, line: Line, patch: int) -> dict[str, Tensor]:
    """What the reference makes of a line's checkpoint at a patch size."""
    with torch.device("meta"):
        model = Model(FAMILIES[line.family], line.arch, line.geometry(patch), declared=None)
    return reference.load_state_dict(load_file(folder / f"{line.checkpoint}.safetensors"), model)


def assert_agree(folder: Path, line: Line, patch: int, got: dict[str, Tensor]) -> None:
    """Every tensor bit for bit, or within float32 rounding where it was resampled."""
    want, native = by_reference(folder, line, patch), by_reference(folder, line, 16)
    old, new = line.geometry(16), line.geometry(patch)
    limits: dict[str, Tensor] = {}
    if old != new:
        limits[KERNEL] = bounds.kernel(native[KERNEL], new.patch_size, BICUBIC_ANTIALIAS)
        rows = bounds.grid(want[GRID][:, 1:], native[GRID][:, 1:], old.grid_size, new.grid_size, BICUBIC_ANTIALIAS)
        limits[GRID] = torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)
        # The reference itself against its own matrices, so that both sides cannot share a slip in the plumbing.
        assert torch.equal(want[KERNEL], resample_patch_kernel(native[KERNEL], new.patch_size))
        assert torch.equal(want[GRID], resample_position_grid(native[GRID], old.grid_size, new.grid_size, 1))
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name
        if name in limits:
            assert bounds.fraction(got[name].double() - value.double(), limits[name]) <= 1, name
        else:
            assert torch.equal(got[name], value), name


def assert_same_output(folder: Path, name: str, got: Tensor) -> None:
    """As open_clip's own output, within float64 rounding over the longest chain of products."""
    theirs = torch.load(folder / f"{name}.pt", weights_only=True)
    arch, geometry = LINES[name].arch, LINES[name].geometry(16)
    operations = 3 * 16 * 16 + arch["depth"] * (geometry.tokens + 12 * arch["embed_dim"])
    limit = bounds.forward(theirs["output"], operations, theirs["sensitivity"])
    assert got.shape == theirs["output"].shape
    assert got.dtype == torch.float64
    assert bounds.fraction(got - theirs["output"], limit) <= 1


def test_the_releases_are_the_ones_asked_for(results: dict) -> None:
    assert {(key[0], result["version"]) for key, result in results.items()} == {
        (BROKEN, "0.9.16"),
        (FIXED, "1.0.31"),
    }


def test_the_full_tower_is_open_clips_vit_b_16(checkpoints: Path) -> None:
    state = load_file(checkpoints / "full.safetensors")
    assert state["visual.conv1.weight"].shape == (768, 3, 16, 16)
    assert state["visual.positional_embedding"].shape == (1 + 14 * 14, 768)
    assert state["visual.transformer.resblocks.11.mlp.c_fc.weight"].shape == (3072, 768)
    assert state["visual.proj"].shape == (768, 512)
    assert any(not key.startswith("visual.") for key in state)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", ["tiny", "full"])
def test_open_clip_at_its_own_patch_size_computes_what_open_clip_computes(
    results: dict, checkpoints: Path, name: str, release: str
) -> None:
    result = results[release, name, 16, False]
    assert result["error"] is None
    assert_agree(checkpoints, LINES[name], 16, result["state"])
    assert_same_output(checkpoints, name, result["output"])


@pytest.mark.parametrize("name", ["tiny", "full"])
def test_open_clip_at_another_patch_size_fails_on_the_broken_release(results: dict, name: str) -> None:
    result = results[BROKEN, name, 8, False]
    assert result["state"] is None
    assert result["error"].startswith("RuntimeError")
    assert "size mismatch for patch_embed.proj.weight" in result["error"]


@pytest.mark.parametrize("name", ["tiny", "full"])
def test_open_clip_at_another_patch_size_loads_on_the_fixed_release(
    results: dict, checkpoints: Path, name: str
) -> None:
    result = results[FIXED, name, 8, False]
    assert result["error"] is None
    assert_agree(checkpoints, LINES[name], 8, result["state"])


@pytest.mark.parametrize("release", RELEASES)
def test_the_reference_loads_open_clip_into_any_release(results: dict, checkpoints: Path, release: str) -> None:
    result = results[release, "tiny", 8, True]
    assert result["error"] is None
    want = by_reference(checkpoints, LINES["tiny"], 8)
    assert not exact_differences(want, result["state"])


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", ["in21k", "in1k"])
def test_timm_native_lines_of_the_issue_load_on_both_releases(
    results: dict, checkpoints: Path, name: str, release: str
) -> None:
    result = results[release, name, 8, False]
    assert result["error"] is None
    assert_agree(checkpoints, LINES[name], 8, result["state"])


def test_the_reference_forward_computes_what_open_clip_computes(checkpoints: Path) -> None:
    state = {k: v.double() for k, v in load_file(checkpoints / "tiny.safetensors").items()}
    image = torch.load(checkpoints / "tiny.pt", weights_only=True)["image"]
    assert_same_output(checkpoints, "tiny", reference.forward(state, image, {"num_heads": 2}))
