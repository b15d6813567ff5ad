"""What the reference loader refuses, and how it says so: one line that names what it saw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import reference
from conformance.cases import Geometry
from tests.small_vit import image_encoder, model, refusal

GEOMETRY = Geometry((4, 4), (2, 2))
T = torch.zeros(1)


def test_an_unknown_checkpoint_is_refused_with_the_keys_seen() -> None:
    text = refusal({"first.weight": T, "second.weight": T}, model(GEOMETRY))
    assert "unknown" in text
    assert "keys seen: first.weight, second.weight" in text
    text = refusal({f"layer{i}": T for i in range(9)}, model(GEOMETRY))
    assert text.endswith("keys seen: layer0, layer1, layer2, layer3 and 5 more")


def test_an_ambiguous_checkpoint_is_refused_with_formats_and_keys() -> None:
    state = {"visual.class_embedding": T, "visual.trunk.patch_embed.proj.weight": T}
    text = refusal(state, model(GEOMETRY))
    assert "ambiguous" in text
    assert "openai_clip, openclip_trunk" in text
    assert "keys seen: visual.class_embedding, visual.trunk.patch_embed.proj.weight" in text


@pytest.mark.parametrize("empty", [{}, {"model": {}}, {"model": {"state_dict": {}}}], ids=str)
def test_an_empty_checkpoint_is_refused(empty: dict) -> None:
    assert "no state_dict in this checkpoint" in refusal(empty, model(GEOMETRY))


@pytest.mark.parametrize("value", [None, 3, [0.0], "weights"], ids=repr)
def test_values_that_are_no_tensors_are_refused_by_name(value: Any) -> None:
    own, _ = image_encoder(GEOMETRY)
    assert "(not a named tensor: blocks.0.extra)" in refusal(own | {"blocks.0.extra": value}, model(GEOMETRY))


def test_a_model_that_is_no_vision_transformer_is_refused() -> None:
    own, _ = image_encoder(GEOMETRY)
    assert "Linear is no Vision Transformer" in refusal(own, nn.Linear(2, 2))
    gridless = model(GEOMETRY)
    del gridless.patch_embed.grid_size
    assert "Model is no Vision Transformer" in refusal(own, gridless)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"depth": 2}, "missing: blocks.1.norm1.weight"),
        ({"num_classes": 5}, "does not fit the model: head.weight is (3, 8), the model has (5, 8)"),
        ({"pre_norm": True}, "missing: norm_pre.weight, norm_pre.bias; unexpected: patch_embed.proj.bias"),
        ({"reg_tokens": 4}, "missing: reg_token"),
        ({"class_token": False, "global_pool": "avg"}, "unexpected: cls_token"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_a_strict_load_would_refuse_is_refused_first(change: dict, text: str) -> None:
    own, _ = image_encoder(GEOMETRY)
    # Declared, so that a row too many or too few is not read as another grid.
    assert text in refusal(own, model(GEOMETRY, declared=GEOMETRY.img_size, **change))


@pytest.mark.parametrize("what", [None, [T], T, nn.Linear(2, 2)], ids=["None", "list", "Tensor", "Module"])
def test_what_is_no_checkpoint_is_refused(what: Any) -> None:
    """A whole pickled model, say, which old files hold."""
    assert f"this is a {type(what).__name__}" in refusal(what, model(GEOMETRY))


def test_keys_that_are_no_names_are_refused() -> None:
    own, _ = image_encoder(GEOMETRY)
    assert "(not a named tensor: 0)" in refusal(own | {0: T}, model(GEOMETRY))


@pytest.mark.parametrize("shape", [(5,), (2, 10, 8), (1, 5, 4, 2)], ids=str)
def test_a_position_embedding_of_another_rank_is_refused(shape: tuple[int, ...]) -> None:
    own, _ = image_encoder(GEOMETRY)
    assert f"pos_embed is {shape}, the model has (1, 5, 8)" in refusal(own | {"pos_embed": torch.zeros(shape)}, model(GEOMETRY))


@pytest.mark.parametrize(
    ("family", "key", "options"),
    [
        ("openai_clip", "visual.positional_embedding", {"pre_norm": True}),
        ("dinov2", "patch_embed.proj.weight", {"num_classes": 0, "layer_scale": True}),
        (
            "dinov2_registers",
            "cls_token",
            {"num_classes": 0, "reg_tokens": 2, "no_embed_class": True, "layer_scale": True},
        ),
        ("legacy_linear", "patch_embed.proj.weight", {}),
    ],
)
def test_tensors_of_impossible_shapes_are_refused_by_name(family: str, key: str, options: dict) -> None:
    """Never an IndexError from inside: the line names a tensor and the shape it has."""
    state, _ = image_encoder(GEOMETRY, family, **options)
    for shape in ((), (3,)):
        text = refusal(state | {key: torch.zeros(shape)}, model(GEOMETRY, family, **options))
        assert "shape" in text or "the model has" in text or "unknown checkpoint format" in text, text


def test_an_input_size_that_explains_nothing_is_refused() -> None:
    """Unlike a declaration of the model's, which may be another checkpoint's, an argument is about this one."""
    own, _ = image_encoder(GEOMETRY)
    larger = model(Geometry((4, 4), (3, 3)))
    text = refusal(own, larger, input_size=(64, 48))
    assert "input_size (64, 48) is not the checkpoint's: it gives 16x12 position tokens, the checkpoint has 4" in text


def test_a_wrapper_without_tensors_is_no_wrapper() -> None:
    """`model` may name the model while `state_dict` holds it."""
    own, _ = image_encoder(GEOMETRY)
    for wrapped in ({"model": {"name": "vit"}, "state_dict": own}, {"state_dict": {"model": {"state_dict": own}}}):
        loaded = reference.load_state_dict(wrapped, model(GEOMETRY))
        assert loaded.keys() == own.keys()


def test_nothing_returned_carries_a_gradient() -> None:
    """Parameters in a checkpoint (a whole model's state, kept with gradients) give plain tensors where resampled."""
    own, _ = image_encoder(GEOMETRY)
    live = {k: nn.Parameter(v) for k, v in own.items()}
    loaded = reference.load_state_dict(live, model(Geometry((2, 6), (3, 1))))
    assert all(v.grad_fn is None for v in loaded.values())


def test_a_prefix_token_that_is_not_as_wide_as_its_row_is_refused() -> None:
    """Adding them would repeat a token of one channel along the row."""
    options = {"embed_class": True, "no_embed_class": True, "projection": "linear"}
    state, _ = image_encoder(GEOMETRY, "naflex_vit", **options)
    into = model(GEOMETRY, "naflex_vit", declared=GEOMETRY.img_size, **options)
    assert reference.load_state_dict(state, into).keys() == into.state_dict().keys()
    text = refusal(state | {"cls_token": state["cls_token"][..., :1]}, into)
    assert text == "cls_token and its rows of pos_embed have shapes (1, 1, 1) and (1, 1, 8), which do not add up"


def test_the_mask_of_a_bias_that_is_not_there_means_nothing() -> None:
    """A DINOv3 whose biases were trained to nothing may lack them; one whose model has them may not."""
    options = {"num_classes": 0, "reg_tokens": 1, "pos_embed": "none", "fc_norm": False, "layer_scale": True}
    for bias in ("zero", "learnt"):
        arch = options | {"bias": bias, "qkv_bias": bias == "learnt"}
        state, _ = image_encoder(GEOMETRY, "dinov3", **arch)
        del state["blocks.0.attn.qkv.bias"]
        assert "blocks.0.attn.qkv.bias_mask" in state
        into = model(GEOMETRY, "dinov3", **arch)
        if bias == "zero":
            assert reference.load_state_dict(state, into).keys() == into.state_dict().keys()
        else:
            assert "missing: blocks.0.attn.q_bias, blocks.0.attn.v_bias" in refusal(state, into)
