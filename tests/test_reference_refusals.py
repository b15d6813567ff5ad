"""What the reference loader refuses, and how it says so: one line that names what it saw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from conformance.cases import Geometry
from tests.small_vit import image_encoder, model, refusal

GEOMETRY = Geometry((4, 4), (2, 2))
T = torch.zeros(1)


def test_an_unknown_checkpoint_is_refused_with_the_keys_seen() -> None:
    text = refusal({"first.weight": T, "second.weight": T}, model(GEOMETRY))
    assert "unknown" in text and "keys seen: first.weight, second.weight" in text
    text = refusal({f"layer{i}": T for i in range(9)}, model(GEOMETRY))
    assert text.endswith("keys seen: layer0, layer1, layer2, layer3 and 5 more")


def test_an_ambiguous_checkpoint_is_refused_with_formats_and_keys() -> None:
    state = {"visual.class_embedding": T, "visual.trunk.patch_embed.proj.weight": T}
    text = refusal(state, model(GEOMETRY))
    assert "ambiguous" in text and "openai_clip, openclip_trunk" in text
    assert "keys seen: visual.class_embedding, visual.trunk.patch_embed.proj.weight" in text


@pytest.mark.parametrize("empty", [{}, {"model": {}}, {"model": {"state_dict": {}}}], ids=str)
def test_an_empty_checkpoint_is_refused(empty: dict) -> None:
    assert "it is empty" in refusal(empty, model(GEOMETRY))


@pytest.mark.parametrize("value", [None, 3, [0.0], "weights"], ids=repr)
def test_values_that_are_no_tensors_are_refused_by_name(value: Any) -> None:
    own, _ = image_encoder(GEOMETRY)
    assert "not a tensor: blocks.0.extra;" in refusal(own | {"blocks.0.extra": value}, model(GEOMETRY)).replace(")", ";")


def test_a_model_that_is_no_vision_transformer_is_refused() -> None:
    own, _ = image_encoder(GEOMETRY)
    assert "Linear is no Vision Transformer" in refusal(own, nn.Linear(2, 2))
    gridless = model(GEOMETRY)
    del gridless.patch_embed.grid_size
    assert "Model is no Vision Transformer" in refusal(own, gridless)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"depth": 2}, "missing: blocks.1.norm1.weight"),
        ({"num_classes": 5}, "other shape: head.weight is (3, 8), the model has (5, 8)"),
        ({"class_token": False}, "unexpected: cls_token"),
        ({"reg_tokens": 4}, "the model has other prefix tokens"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_a_strict_load_would_refuse_is_refused_first(change: dict, text: str) -> None:
    own, _ = image_encoder(GEOMETRY)
    # Declared, so that a row too many or too few is not read as another grid.
    assert text in refusal(own, model(GEOMETRY, declared=GEOMETRY.img_size, **change))
