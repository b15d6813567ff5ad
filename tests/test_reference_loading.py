"""Corners of the reference's loading that no drawn case has: what it refuses, and what it says then. No timm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import reference
from conformance.cases import Geometry
from conformance.problems import same
from reference.loader import Source
from tests.small_vit import GEOMETRY, OPTIONS, image_encoder, model, refusal

BEIT = {"tables": "block", "pos_embed": "none", "layer_scale": False, "global_pool": "avg"}
TABLE = "blocks.0.attn.relative_position_bias_table"


def test_a_parameter_without_values_may_be_one_of_the_models() -> None:
    own, _ = image_encoder(GEOMETRY)
    into = model(GEOMETRY)
    into.register_parameter("nothing", nn.Parameter(torch.zeros(0, 4)))
    assert reference.load_state_dict(own | {"nothing": torch.zeros(0, 4)}, into)["nothing"].shape == (0, 4)


@pytest.mark.parametrize("shape", [(28, 2, 1), (28,)], ids=str)
def test_a_table_of_another_rank_is_refused_before_it_is_resized(shape: tuple[int, ...]) -> None:
    state, _ = image_encoder(Geometry((4, 4), (3, 3)), "beit", **BEIT)
    text = refusal(state | {TABLE: torch.zeros(shape)}, model(GEOMETRY, "beit", **BEIT))
    assert text == f"checkpoint does not fit the model: {TABLE} is {shape}, the model has (12, 2)"


@pytest.mark.parametrize("rows", [15, 16, 20, 0])
def test_a_table_of_no_square_window_is_refused_by_name(rows: int) -> None:
    """15 rows are of a window of 2x3, or of 1x8; 16 would be a square of a side that no window has."""
    state, _ = image_encoder(GEOMETRY, "beit", **BEIT)
    text = refusal(state | {TABLE: torch.ones(rows + 3, 2)}, model(GEOMETRY, "beit", **BEIT))
    assert text.startswith(f"the {rows} rows of {TABLE} are the offsets of no square window")


def test_a_source_may_be_fitted_twice() -> None:
    state, _ = image_encoder(Geometry((4, 4), (3, 3)), "beit", **BEIT)
    into = model(GEOMETRY, "beit", **BEIT)
    source = Source.of(state, into)
    once, again = source.fitted(into), source.fitted(into)
    assert once[TABLE].shape == (12, 2)
    assert not same(once, again)


def test_positions_stored_as_a_grid_say_which() -> None:
    """facebookresearch/segment-anything: (1, h, w, dim)."""
    options = {"window_size": 2, "global_blocks": "all", "neck_chans": 4, "num_classes": 0, "class_token": False}
    geometry = Geometry((4, 4), (2, 3))
    state, _ = image_encoder(geometry, "sam", **options)
    into = model(geometry, "sam", **options)
    source = Source.of(state, into)
    assert (source.grid_size, source.prefix_rows) == ((2, 3), 0)
    assert source.state["pos_embed"].shape == (1, 6, 8)
    assert source.fitted(into)["pos_embed"].shape == (1, 2, 3, 8)


@pytest.mark.parametrize("tokens", [3, 6, 8])
def test_radio_has_a_square_of_positions(tokens: int) -> None:
    """NVlabs/RADIO radio/vit_patch_generator.py: max_input_dims is one number."""
    state, _ = image_encoder(GEOMETRY, "radio", **OPTIONS["radio"])
    name = "radio_model.model.patch_generator.pos_embed"
    text = refusal(state | {name: torch.zeros(1, tokens, 8)}, model(GEOMETRY, "radio", **OPTIONS["radio"]))
    assert text == f"the radio format has a square of position tokens, not {tokens}"


def test_fewer_positions_than_prefix_tokens_are_refused() -> None:
    own, _ = image_encoder(GEOMETRY)
    text = refusal(own | {"pos_embed": torch.zeros(1, 1, 8)}, model(GEOMETRY))
    assert text == "pos_embed has fewer rows than the model has prefix tokens: the model has other prefix tokens"


def test_a_classifier_that_reads_a_layer_the_model_has_not_is_refused() -> None:
    """timm's models have no representation layer any more: without a classifier, here or there, it does no harm."""
    state, _ = image_encoder(GEOMETRY, "legacy_linear")
    layer = {"pre_logits.fc.weight": torch.eye(8), "pre_logits.fc.bias": torch.zeros(8)}
    text = refusal(state | layer, model(GEOMETRY))
    assert text.startswith(
        "the classifier reads the output of pre_logits.fc.weight, pre_logits.fc.bias, a layer the model"
    )
    assert reference.load_state_dict(state | layer, model(GEOMETRY), keep_classifier=True)
    assert reference.load_state_dict(state | layer, model(GEOMETRY, num_classes=0))
    headless = {k: v for k, v in (state | layer).items() if not k.startswith("head.")}
    assert "missing: head.weight, head.bias" in refusal(headless, model(GEOMETRY))
    assert reference.load_state_dict(headless, model(GEOMETRY, num_classes=0))
