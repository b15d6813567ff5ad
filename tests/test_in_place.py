"""A model that is resized in place: the right ones pass, and each thing that one may leave behind is told."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from timm_conformance.cases.case import Geometry
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.drawing.catalogue import models_of
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.drawing.pinned import pinned_cases
from timm_conformance.engine.judging import Judgement, judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.trial import Trial

GRIDS = {"swin": ((4, 4), (8, 8)), "eva02": ((3, 3), (5, 5))}


@cache
def loader() -> Loader:
    return Loader(parse_target("timm==1.0.31"))


def judged(family: str, after: Callable[[nn.Module], None] = lambda model: None, **changes: Any) -> Judgement:
    """The invariant on a small model of a family that is resized in both ways. ``after`` follows the first resize."""
    old, new = GRIDS.get(family, ((2, 2), (3, 4)))
    some = next(c for drawn in Drawing(PROFILES["smoke"], 0).cases(FAMILIES[family]).values() for c in drawn)
    case = replace(
        some,
        source=Geometry((2, 2), old),
        destination=Geometry((4, 4), new),
        container="safetensors",
        wrapper="bare",
        dtype="float32",
        declared="true",
        in_chans=None,
        num_classes=None,
        asked={},
        door="set-input-size",
        model_name=models_of(FAMILIES[family])[0].name,
        **changes,
    )
    trial = Trial(FAMILIES[family], case, loader())
    assert isinstance(trial.by_door.outcome, nn.Module), trial.by_door.outcome
    after(trial.by_door.outcome)
    return judge(INVARIANTS["resized-in-place"], trial)


@pytest.mark.parametrize("family", ["timm_native", "openai_clip", "eva02", "swin", "swin_v2", "beit", "radio"])
def test_a_resized_model_passes(family: str) -> None:
    found = judged(family)
    assert found.outcome == "pass", found


def test_rotary_tables_of_the_old_grid_are_told() -> None:
    def left_behind(model: Any) -> None:
        model.rope.update_feat_shape((3, 3))

    found = judged("eva02", left_behind)
    assert {p.kind for p in found.problems} >= {"shape"}
    assert any(p.tensor.startswith("rope.") for p in found.problems)


def test_an_image_size_left_behind_is_told() -> None:
    def left_behind(model: Any) -> None:
        model.patch_embed.img_size = (4, 4)

    found = judged("timm_native", left_behind)
    assert any(p.kind == "raises-AssertionError" for p in found.problems), found


@pytest.mark.parametrize("family", ["swin", "swin_v2"])
def test_masks_of_the_old_grid_are_told(family: str) -> None:
    """On the pinned example, whose first stage has several windows before and after."""
    case = next(c for c in pinned_cases(FAMILIES[family]) if c.door == "set-input-size" and "window_size" in c.arch)
    assert judge(INVARIANTS["resized-in-place"], Trial(FAMILIES[family], case, loader())).outcome == "pass"
    trial = Trial(FAMILIES[family], case, loader())
    model: Any = trial.by_door.outcome
    block = model.layers[0].blocks[1]
    block.register_buffer("attn_mask", block.attn_mask[:4], persistent=False)
    found = judge(INVARIANTS["resized-in-place"], trial)
    assert {(p.kind, p.tensor) for p in found.problems} == {
        ("shape", "layers.*.blocks.*.attn_mask"),
        ("output", "output"),
    }


def test_another_output_is_told() -> None:
    def pooled(model: Any) -> None:
        model.global_pool = "avg"

    found = judged("openai_clip", pooled)
    assert {(p.kind, p.tensor) for p in found.problems} == {("output", "output")}


def test_a_checkpoint_that_does_not_load_again_is_told() -> None:
    def grown(model: Any) -> None:
        model.register_buffer("window", torch.zeros(1))

    found = judged("timm_native", grown)
    assert [p.kind for p in found.problems] == ["raises-RuntimeError"]
    assert "own checkpoint" in found.problems[0].message


def test_a_second_resize_that_reads_the_first_ones_grid_is_told() -> None:
    def mistaken(model: Any) -> None:
        model.patch_embed.grid_size = model.patch_embed.grid_size[::-1]

    found = judged("timm_native", mistaken)
    assert {(p.kind, p.tensor) for p in found.problems} == {("value", "pos_embed")}


def test_a_kernel_that_leaves_half_precision_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in 1.0.20, whose new convolution has the default dtype."""
    loader()  # chooses the timm that is imported
    layers = importlib.import_module("timm.layers.patch_embed")

    class Convolution(nn.Conv2d):
        def __init__(self, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(layers.nn, "Conv2d", Convolution)
    found = judged("timm_native")
    assert {(p.kind, p.tensor) for p in found.problems} == {
        ("dtype", "patch_embed.proj.weight"),
        ("dtype", "patch_embed.proj.bias"),
    }
