"""Corners of the reference's loading that no drawn case has: what it refuses, and what it says then. No timm."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.small_vit import GEOMETRY, OPTIONS, image_encoder, model, refusal
from timm_conformance import reference
from timm_conformance.cases.case import Geometry
from timm_conformance.reference import prefix_rows
from timm_conformance.reference.loader import Source
from timm_conformance.trials.problems import exact_differences

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
    assert not exact_differences(once, again)


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


@pytest.mark.parametrize(
    ("total", "tokens", "grid", "claimed", "rows"),
    [
        (5, (1, 0), (1, 5), None, (0, 0)),
        (5, (1, 0), (1, 5), (2, 2), (1, 0)),
        (5, (1, 0), (1, 4), (1, 5), (0, 0)),
        (5, (1, 0), (3, 3), None, (1, 0)),
        (7, (1, 2), (2, 2), (3, 3), (1, 2)),
        (4, (0, 0), (3, 3), None, (0, 0)),
        (1, (1, 0), (2, 2), None, (0, 0)),
        (4, (1, 2), (3, 3), None, None),
        (7, (1, 0), (3, 3), (2, 2), None),
    ],
    ids=str,
)
def test_rows_of_prefix_tokens_follow_from_the_declared_grid_the_models_or_a_square(total, tokens, grid, claimed, rows):
    """Whichever first accounts for the positions with them or without; two answers, or none, are refused."""
    names = zip(("cls_token", "reg_token"), tokens)
    state = {name: torch.zeros(1, count, 8) for name, count in names if count} | {"pos_embed": torch.zeros(1, total, 8)}
    if rows is None:
        said = f"{total} position tokens, with or without those of {sum(tokens)} prefix tokens, do not say their grid"
        with pytest.raises(reference.LoadError, match=said):
            prefix_rows.stored_rows(state, grid, claimed)
    else:
        assert prefix_rows.stored_rows(state, grid, claimed) == rows
        assert prefix_rows.stored_rows(state, grid, claimed, stored=True) == tokens
        assert prefix_rows.stored_rows(state, grid, claimed, stored=False) == (0, 0)


@pytest.mark.parametrize(
    ("total", "tokens", "rows", "claimed", "said"),
    [
        (5, 1, 1, (2, 2), None),
        (5, 1, 1, None, None),
        (4, 1, 0, (2, 2), None),
        (
            9,
            1,
            0,
            (2, 4),
            "pos_embed of the checkpoint begins with rows for its prefix tokens, that of the model does not",
        ),
        (9, 1, 0, None, None),  # 3x3 without a row, or eight positions and a row: nothing tells
        (
            8,
            1,
            1,
            (2, 4),
            "pos_embed of the model begins with rows for its prefix tokens, that of the checkpoint does not",
        ),
        (9, 1, 3, (2, 4), "the checkpoint has 1 prefix tokens, the model has positions for 3"),
    ],
    ids=str,
)
def test_rows_for_other_prefix_tokens_than_the_models_are_refused(total, tokens, rows, claimed, said):
    """Where the declared grid tells; a grid is never made of them."""
    state = {"cls_token": torch.zeros(1, tokens, 8), "pos_embed": torch.zeros(1, total, 8)}
    with pytest.raises(reference.LoadError, match=said) if said else nullcontext():
        prefix_rows.check(state, rows, claimed)


@pytest.mark.parametrize("width", [1, 9])
def test_a_prefix_token_and_its_row_have_one_shape(width: int) -> None:
    state = {"cls_token": torch.zeros(1, 1, width), "pos_embed": torch.zeros(1, 5, 8)}
    with pytest.raises(
        reference.LoadError, match=rf"have shapes \(1, 1, {width}\) and \(1, 1, 8\), which do not add up"
    ):
        prefix_rows.fold(state, (1, 0))


def test_a_forwards_own_refusal_passes_through() -> None:
    """MobileCLIP's, under timm's names, has no place for another tensor."""
    geometry = Geometry((1, 1), (2, 2))
    state, case = image_encoder(geometry, "hybrid_convstem", no_embed_class=True)
    with pytest.raises(reference.LoadError, match=r"^the mobileclip format has no place for other$"):
        reference.forward(state | {"other": torch.zeros(1)}, torch.zeros(1, 3, 16, 16), case.arch)


def test_why_a_forward_cannot_run_is_told_in_one_line_of_a_few_hundred_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(state, image, arch):
        raise RuntimeError("one\n  two " + "x" * 400)

    monkeypatch.setitem(reference.FORMATS, "timm_native", replace(reference.FORMATS["timm_native"], forward=fails))
    own, case = image_encoder(GEOMETRY)
    with pytest.raises(reference.LoadError) as caught:
        reference.forward(own, torch.zeros(1), case.arch)
    line = "the timm_native forward cannot run on tensors of these shapes: one two "
    assert str(caught.value) == line + "x" * 292
