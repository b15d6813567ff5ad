"""What the reference loader refuses, and how it says so: one line that names what it saw."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from tests.small_vit import Model, geometry_of, image_encoder, model, refusal
from timm_conformance import reference
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.checkpoints import state_dicts
from timm_conformance.drawing.strategies import cases, strata_of
from timm_conformance.families import READ, Family
from timm_conformance.families.base import KERNEL
from timm_conformance.reference import LoadError
from timm_conformance.reference.entries import WRAPPERS
from timm_conformance.reference.errors import some

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
    assert "openclip_tower, openclip_trunk" in text
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
    assert f"pos_embed is {shape}, the model has (1, 5, 8)" in refusal(
        own | {"pos_embed": torch.zeros(shape)}, model(GEOMETRY)
    )


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


def _line(use: Callable[[], object]) -> str:
    """What is refused, where something is; any other exception passes through."""
    try:
        use()
    except LoadError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", READ.values(), ids=list(READ))
def test_a_tensor_of_another_shape_is_refused_in_one_line_or_no_matter(family: Family) -> None:
    """Each tensor of a checkpoint in turn, in every format: by the loader, and by the upstream forward."""

    @settings(max_examples=1, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases(family, strata_of(family)[0]))
    def check(case: Case) -> None:
        state = state_dicts.encode(family, case, state_dicts.truth(family, case))
        into = Model(family, case.arch, case.destination, family.img_size(case.arch, case.source))
        image = torch.zeros(1, case.arch.get("in_chans", 3), *family.img_size(case.arch, case.source))
        arch = case.arch | family.forward_arch(case)
        assert reference.load_state_dict(state, into)
        for key in state:
            for shape in ((), (3,), (2, 1, 3, 3), (0, 8)):
                broken = state | {key: torch.zeros(shape)}
                assert _line(lambda broken=broken: reference.load_state_dict(broken, into)).isprintable()
                assert _line(lambda broken=broken: reference.forward(broken, image, arch)).isprintable()

    check()


@pytest.mark.parametrize(
    ("tensor", "form"),
    [
        (lambda: torch.eye(8).to_sparse(), "sparse_coo"),
        (lambda: torch.eye(8).to_sparse_csr(), "sparse_csr"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
        (lambda: torch.quantize_per_tensor(torch.zeros(8), 1.0, 0, torch.qint8), "quantized"),
    ],
    ids=["sparse", "csr", "nested", "quantized"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_are_not_dense_are_refused_by_name(tensor: Callable, form: str) -> None:
    own, _ = image_encoder(GEOMETRY)
    assert f"convert the others first: norm.bias ({form})" in refusal(own | {"norm.bias": tensor()}, model(GEOMETRY))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e5m2, torch.bool, torch.complex64], ids=str)
def test_weights_that_are_no_floating_point_numbers_are_refused_by_name(dtype: torch.dtype) -> None:
    own, _ = image_encoder(GEOMETRY)
    text = refusal(own | {"norm.bias": torch.zeros(8).to(dtype)}, model(GEOMETRY))
    assert text.endswith(f"convert the checkpoint first: norm.bias {str(dtype).removeprefix('torch.')}")


def test_counters_stay_integers() -> None:
    """What the model holds as an integer is one in the checkpoint, too (batches seen by a BatchNorm)."""
    geometry = geometry_of("mobileclip")
    own, _ = image_encoder(geometry, "mobileclip", no_embed_class=True)
    counters = [k for k, v in own.items() if not v.is_floating_point()]
    loaded = reference.load_state_dict(own, model(geometry, "mobileclip", no_embed_class=True))
    assert counters
    assert any(v.dtype == torch.int64 for v in loaded.values())


@pytest.mark.parametrize(("key", "shape"), [(KERNEL, (8, 3, 0, 4)), ("pos_embed", (1, 0, 8)), ("norm.bias", (0,))])
def test_tensors_without_values_are_refused_by_name(key: str, shape: tuple[int, ...]) -> None:
    own, _ = image_encoder(GEOMETRY)
    text = refusal(own | {key: torch.zeros(shape)}, model(GEOMETRY))
    assert text == f"checkpoint has tensors without values: {key} {shape}"


def test_a_stack_of_more_blocks_than_there_can_be_is_refused() -> None:
    names = {"embedding/kernel": torch.zeros(4, 4, 3, 8), "Transformer/encoderblock/LayerNorm_0/scale": torch.zeros(1)}
    endless = {k: v.expand(2**40, *v.shape) if "block" in k else v for k, v in names.items()}
    assert "encoderblock/LayerNorm_0/scale stacks 1099511627776 blocks" in refusal(endless, model(GEOMETRY))


def test_names_are_shown_on_one_line_whatever_they_are() -> None:
    own, _ = image_encoder(GEOMETRY)
    text = refusal(own | {"blocks.0.x\n\x1b[2J": T, "blocks.0." + "y" * 1000: T}, model(GEOMETRY))
    assert text.isprintable()
    assert r"'blocks.0.x\n\x1b[2J'" in text
    assert len(text) < 400
    assert some(["x" * 1000, "yes\n"]) == f"{'x' * 120}, 'yes\\n'"


@pytest.mark.parametrize(
    ("names", "text"),
    [([], "none"), (["a"], "a"), (list("abcd"), "a, b, c, d"), (list("abcdef"), "a, b, c, d and 2 more")],
    ids=str,
)
def test_the_first_four_names_are_spelled_out(names: list[str], text: str) -> None:
    assert some(names) == text


def test_wrappers_that_hold_each_other_are_looked_through_once() -> None:
    loop: dict[str, Any] = {}
    loop |= dict.fromkeys(WRAPPERS, loop)
    started = time.process_time()
    assert "no state_dict in this checkpoint" in refusal(loop, model(GEOMETRY))
    assert time.process_time() - started < 0.5


def test_a_forward_that_cannot_run_says_why_in_one_line() -> None:
    own, case = image_encoder(GEOMETRY)
    image = torch.zeros(1, 3, *GEOMETRY.img_size)
    for broken, arch, text in (
        ({k: v for k, v in own.items() if k != "norm.bias"}, case.arch, "forward finds no norm.bias in"),
        (own, {}, "forward finds no num_heads in"),
        (own | {"norm.bias": torch.zeros(3)}, case.arch, "forward cannot run on tensors of these shapes"),
        (own, case.arch | {"num_heads": 0}, "forward cannot run on tensors of these shapes"),
    ):
        with pytest.raises(LoadError, match=text) as caught:
            reference.forward(broken, image, arch)
        assert str(caught.value).isprintable()


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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_tensor_that_the_model_has_not_is_refused_though_it_were_zero(value: float) -> None:
    own, _ = image_encoder(GEOMETRY)
    more = {"blocks.0.attn.other": torch.full((8,), value)}
    assert refusal(own | more, model(GEOMETRY)) == "checkpoint does not fit the model: unexpected: blocks.0.attn.other"


def test_a_bias_that_was_trained_is_refused_where_the_model_has_none() -> None:
    """One that was trained to nothing is not."""
    options = {"num_classes": 0, "reg_tokens": 1, "pos_embed": "none", "fc_norm": False, "layer_scale": True}
    into = model(GEOMETRY, "dinov3", **options, bias="zero", qkv_bias=False)
    state, _ = image_encoder(GEOMETRY, "dinov3", **options, bias="learnt", qkv_bias=True)
    assert refusal(state, into).endswith("unexpected: blocks.0.attn.q_bias, blocks.0.attn.v_bias")
    zeros = {k: torch.zeros_like(v) if k.endswith("qkv.bias") else v for k, v in state.items()}
    assert reference.load_state_dict(zeros, into).keys() == into.state_dict().keys()


@pytest.mark.parametrize("width", [7, 9])
def test_a_tensor_that_is_too_small_or_too_large_is_refused(width: int) -> None:
    own, _ = image_encoder(GEOMETRY)
    text = refusal(own | {"norm.bias": torch.zeros(width)}, model(GEOMETRY))
    assert text == f"checkpoint does not fit the model: norm.bias is ({width},), the model has (8,)"
