"""What the reference reads of a model, and what it takes a checkpoint for: corners that no release's models have. No timm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.small_vit import GEOMETRY, image_encoder, model, refusal
from timm_conformance import reference
from timm_conformance.cases.case import Geometry
from timm_conformance.reference.destination import Destination
from timm_conformance.reference.embeddings import resample_position_grid
from timm_conformance.reference.forward import num_blocks
from timm_conformance.reference.loader import Source
from timm_conformance.trials.problems import exact_differences

KERNEL = "patch_embed.proj.weight"
NAFLEX = {"projection": "linear", "class_token": False, "embed_class": False}


def _loads(state, into: nn.Module, **arguments) -> dict[str, torch.Tensor]:
    """Loaded, and of the model's shapes."""
    loaded = reference.load_state_dict(state, into, **arguments)
    assert {k: v.shape for k, v in loaded.items()} == {k: v.shape for k, v in into.state_dict().items()}
    return loaded


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_naflex_model_that_says_nothing_of_its_patches_has_them_channels_last() -> None:
    """The releases before `channels_last` had no other layout."""
    geometry = Geometry((2, 4), (2, 2))
    state, _ = image_encoder(geometry)
    into = model(Geometry((4, 2), (2, 2)), "naflex_vit", embed_class=True, projection="linear")
    want = _loads(state, into)
    del into.embeds.channels_last
    assert all(torch.equal(want[k], v) for k, v in _loads(state, into).items())


def test_a_naflex_model_without_positions_has_no_grid() -> None:
    """Its `pos_embed_grid_size` is None."""
    state, _ = image_encoder(GEOMETRY, "naflex_vit", **NAFLEX)
    into = model(GEOMETRY, "naflex_vit", **NAFLEX)
    without = {k: v for k, v in state.items() if "pos_embed" not in k}
    assert len(without) < len(state)
    del into.embeds.pos_embed
    into.embeds.pos_embed_grid_size = None
    _loads(without, into)


def _hybrid(kernel: tuple[int, ...]) -> nn.Module:
    """A model behind a ResNet stem, with a patch kernel of any shape."""
    into = model(GEOMETRY)
    into.patch_embed.proj.weight = nn.Parameter(torch.zeros(kernel))
    into.patch_embed.backbone = nn.Module()
    into.patch_embed.backbone.conv = nn.Conv2d(3, 8, 3)
    return into


@pytest.mark.parametrize("kernel", [(8, 3), (8, 3, 1, 4, 4)], ids=["linear", "3d"])
def test_a_patch_kernel_that_is_no_2d_convolution_makes_no_vision_transformer(kernel: tuple[int, ...]) -> None:
    """Even behind a stem, which has the first convolution then."""
    assert Destination.of(_hybrid((8, 8, 1, 1))).patch_size == (1, 1)
    own, _ = image_encoder(GEOMETRY)
    for into in (_hybrid(kernel), model(GEOMETRY)):
        into.patch_embed.proj.weight = nn.Parameter(torch.zeros(kernel))
        assert f"Model is no Vision Transformer: it needs patch_embed.grid_size and {KERNEL}" in refusal(own, into)


def test_a_model_without_any_convolution_or_grid_is_no_vision_transformer() -> None:
    own, _ = image_encoder(GEOMETRY)
    for lacking in ("proj", "grid_size", None):
        into = model(GEOMETRY)
        delattr(into.patch_embed, lacking) if lacking else delattr(into, "patch_embed")
        assert "is no Vision Transformer" in refusal(own, into)


def test_a_model_without_an_image_size_has_no_stem() -> None:
    """Its declared input size counts in pixels of the kernel: 4x8 pixels in patches of 2x2 are 2x4 tokens."""
    state, _ = image_encoder(Geometry((2, 2), (2, 4)))
    into = model(Geometry((2, 2), (4, 4)), declared=(4, 8))
    want = _loads(state, into)
    del into.patch_embed.img_size
    assert Destination.of(into).stride == (1, 1)
    assert all(torch.equal(want[k], v) for k, v in _loads(state, into).items())


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_models_own_checkpoint_is_its_own_whatever_its_classifier() -> None:
    """DeiT-III's names are those of timm's Eva: with or without a classifier on either side."""
    state, _ = image_encoder(GEOMETRY, "deit3", layer_scale=True)
    assert reference.detect(state).name == "deit3"
    names, head = set(state), {"head.weight", "head.bias", "head_dist.weight"}
    for own in (names, names | head, names - head):
        for taken in (state, {k: v for k, v in state.items() if k not in head}):
            assert reference.detect(taken, own).name == "timm_native"
    assert reference.detect(state, names - {"norm.bias"}).name == "deit3"


def test_a_wrapper_may_hold_another_beside_one_without_tensors() -> None:
    own, _ = image_encoder(GEOMETRY)
    for beside in ("model_ema", "encoder"):  # before and after `model` in the order of search
        assert reference.unwrap({"state_dict": {"model": own, beside: {"epoch": 3}}}).keys() == own.keys()


def test_a_classifier_alone_is_no_models_own() -> None:
    """Where no model is named, or one of a classifier alone."""
    for names in ((), ("head.weight",)):
        with pytest.raises(reference.LoadError, match="unknown checkpoint format"):
            reference.detect({"head.weight": torch.zeros(3, 8)}, names)


def test_a_checkpoint_of_nothing_is_refused_as_empty() -> None:
    for nothing in ({}, {"model": {}}):
        assert refusal({}, model(GEOMETRY)).startswith("no state_dict in this checkpoint (it is empty); looked under ")
        assert "no state_dict in this checkpoint" in refusal(nothing, model(GEOMETRY))


@pytest.mark.parametrize(("image", "declared"), [((8, 16), (8, 32)), ((16, 8), (16, 16))], ids=["wide", "high"])
def test_a_stem_may_have_another_stride_on_each_axis(image: tuple[int, int], declared: tuple[int, int]) -> None:
    """A model of 2x2 patches of 4x4 pixels behind one that halves an axis; the checkpoint's 2x4 follow from what it declares."""
    state, _ = image_encoder(Geometry((4, 4), (2, 4)))
    into = model(Geometry((4, 4), (2, 2)), declared=declared)
    into.patch_embed.img_size = image
    want = resample_position_grid(state["pos_embed"], (2, 4), (2, 2), 1)
    assert torch.equal(_loads(state, into)["pos_embed"], want)


@pytest.mark.parametrize("naflex", [False, True], ids=["plain", "naflex"])
@pytest.mark.parametrize("resampling", [None, reference.BILINEAR], ids=["own", "bilinear"])
@pytest.mark.parametrize("keep", [False, True], ids=["loaded", "kept"])
def test_a_source_is_read_and_fitted_as_a_checkpoint_is_loaded(naflex: bool, resampling, keep: bool) -> None:
    """With each of its arguments: 2x4 positions, that only the image size tells, and the model's own classifier."""
    state, _ = image_encoder(Geometry((2, 2), (2, 4)))
    options = {"embed_class": True, "projection": "linear"} if naflex else {}
    into = model(Geometry((4, 4), (3, 3)), "naflex_vit" if naflex else "timm_native", **options)
    arguments = {"input_size": (4, 8), "resampling": resampling, "keep_classifier": keep}
    want = reference.load_state_dict(state, into, **arguments)
    source = Source.of(state, into, **arguments)
    assert not exact_differences(want, source.fitted(into))
    assert source.grid_size == (2, 4)
    assert source.resampling == (resampling or reference.BICUBIC_ANTIALIAS)
    assert bool(want["head.weight"].any()) is not keep, "a small model's own is zero"
    without = {k: v for k, v in arguments.items() if k != "keep_classifier"}
    assert exact_differences(want, Source.of(state, into, **without).fitted(into)) or not keep


def test_blocks_are_counted_from_nought_to_the_first_gap() -> None:
    for names, count in (((), 0), ((0, 1, 3), 2), ((1,), 0)):
        assert (
            num_blocks({f"blocks.{i}.norm1.weight": torch.zeros(1) for i in names}, "blocks.{i}.norm1.weight") == count
        )
