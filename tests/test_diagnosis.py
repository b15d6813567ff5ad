"""A failure explains itself: the transformation that makes what was got out of what was expected, and an excerpt of both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.test_fakes import loader, smoke_cases
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.engine.judging import judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.reference.embeddings import resample_position_grid
from timm_conformance.reference.resize import Resampling
from timm_conformance.trials.diagnosis import diagnose
from timm_conformance.trials.excerpt import excerpt
from timm_conformance.trials.expectation import Expectation
from timm_conformance.trials.problems import Problem, exact_differences, value_problem
from timm_conformance.trials.trial import Trial

KERNEL, GRID, QKV = "patch_embed.proj.weight", "pos_embed", "blocks.1.attn.qkv.weight"
SOURCE, WIDER = Geometry((4, 6), (3, 4)), Geometry((6, 8), (5, 3))
ARCH = {"embed_dim": 12, "depth": 3, "num_heads": 2, "mlp_ratio": 2, "num_classes": 3, "pre_norm": True, "act": "gelu"}


def expectation(
    family: str = "openai_clip", source: Geometry = SOURCE, destination: Geometry = WIDER, **arch: object
) -> Expectation:
    """A case of two by three blocks, with every size its own."""
    drawn = {"class_token": True, "reg_tokens": 0, **ARCH, **arch}
    return Expectation(FAMILIES[family], Case(family, drawn, source, destination))


def told(about: Expectation, name: str, wrong: Callable[[Tensor], Tensor]) -> str:
    """The diagnosis of a tensor that a loader got wrong."""
    want = about.expected[name]
    got = wrong(want)
    assert not torch.equal(got, want), "nothing is wrong"
    return diagnose(value_problem("value", name, got, want, 0.0), about)


def _order(*parts: int) -> Callable[[Tensor], Tensor]:
    return lambda t: torch.cat([t.chunk(3)[i] for i in parts])


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        (QKV, _order(1, 0, 2), "expected with q and k exchanged"),
        (QKV, _order(0, 2, 1), "expected with k and v exchanged"),
        (QKV, _order(2, 0, 1), "expected with the parts in the order v, q, k"),
        (
            "blocks.0.attn.qkv.bias",
            lambda t: t * torch.tensor([1.0, 0, 1]).repeat_interleave(12),
            "zeros in place of k",
        ),
        ("blocks.0.mlp.fc1.weight", torch.zeros_like, "zeros"),
        ("blocks.0.norm1.weight", torch.ones_like, "ones, as a norm's weight is initialised"),
        ("norm.bias", lambda t: t * float("nan"), "NaN"),
        ("blocks.0.attn.proj.weight", lambda t: t.T, "expected, transposed"),
        (KERNEL, lambda t: t.flip(1), "expected, the channels reversed (BGR in place of RGB)"),
        ("norm.weight", lambda t: t.flip(-1), "expected, the last dimension reversed"),
        ("blocks.1.norm1.bias", lambda t: t.half().float(), "expected, cast to float16 and back"),
        ("blocks.1.norm1.bias", lambda t: t.bfloat16().float(), "expected, cast to bfloat16 and back"),
        ("norm.bias", lambda t: -t, "expected, the sign changed"),
        (GRID, lambda t: torch.cat([t[:, 1:], t[:, :1]], 1), "expected with the prefix rows at the end"),
        (GRID, lambda t: torch.cat([t[:, :1] * 0, t[:, 1:]], 1), "expected with zeros in the prefix rows"),
    ],
)
def test_one_transformation_is_named(name: str, wrong: Callable[[Tensor], Tensor], says: str) -> None:
    assert told(expectation(), name, wrong).endswith(says)


def test_a_neighbouring_block_and_another_tensor_are_named() -> None:
    about = expectation()
    state = about.expected
    assert told(about, QKV, lambda t: state["blocks.2.attn.qkv.weight"]) == "the tensor of the next block"
    assert told(about, QKV, lambda t: state["blocks.0.attn.qkv.weight"]) == "the tensor of the block before"
    assert told(about, "norm.bias", lambda t: state["norm.weight"]) == "the tensor norm.weight"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (Resampling(antialias=False), "bicubic without antialias"),
        (Resampling("bilinear", antialias=False), "bilinear without antialias"),
        (Resampling("bicubic", antialias=False, align_corners=True), "bicubic with align_corners"),
    ],
)
def test_positions_resampled_otherwise(how: Resampling, says: str) -> None:
    about = expectation()
    native = about.truth[GRID]
    other = resample_position_grid(native, SOURCE.grid_size, WIDER.grid_size, 1, how)
    assert told(about, GRID, lambda t: other) == f"the checkpoint's tensor, resampled {says}"


def test_a_kernel_resampled_like_an_image() -> None:
    about = expectation()
    other = F.interpolate(about.truth[KERNEL], WIDER.patch_size, mode="bicubic", antialias=True)
    says = told(about, KERNEL, lambda t: other)
    assert says == "the checkpoint's tensor, resampled like an image, bicubic with antialias, not by the pseudo-inverse"


def test_a_grid_of_as_many_tokens_that_is_left_as_it_is() -> None:
    about = expectation(source=Geometry((4, 4), (2, 6)), destination=Geometry((4, 4), (3, 4)))
    assert told(about, GRID, lambda t: about.truth[GRID]) == "the checkpoint's tensor, not resampled"


def test_height_and_width_exchanged() -> None:
    about = expectation(destination=Geometry((6, 6), (4, 4)))
    assert told(about, KERNEL, lambda t: t.transpose(-1, -2)) == "expected, height and width exchanged"
    turned = about.transposed(about.expected, about.case.destination)[GRID]
    assert told(about, GRID, lambda t: turned) == "expected, height and width exchanged"


def test_a_class_position_that_is_not_added() -> None:
    """OpenAI's class position is row 0 of the positions; a loader that adds it to the token adds it twice."""
    about = expectation()
    row = about.truth[GRID][:, :1]
    says = told(about, "cls_token", lambda t: t + row)
    assert says == "expected with the first row of visual.positional_embedding added once more"


def test_a_tensor_by_another_name_or_not_resampled_is_found() -> None:
    about = expectation()
    loaded = dict(about.expected)
    loaded["fc_norm.weight"] = loaded.pop("norm.weight")
    missing = Problem("missing-key", "norm.weight", "norm.weight is missing")
    assert diagnose(missing, about, loaded) == "the tensor is there by the name fc_norm.weight"
    loaded[KERNEL] = about.truth[KERNEL]
    shape = Problem("size-mismatch", KERNEL, "...")
    assert diagnose(shape, about, loaded) == "the checkpoint's tensor, not resampled"


# Loaders that are wrong in one way (tests/fakes.py), and what is said of the tensor that each gets wrong.
_OF_FAKES = {
    ("fuses_qkv_in_wrong_order", "openai_clip"): "q and k exchanged",
    ("swaps_norms", "openai_clip"): "the tensor blocks.",
    ("transposes_the_head", "openai_clip"): "transposed",
    ("zeroes_a_bias", "openai_clip"): "zeros",
    ("rounds_to_bfloat16", "dinov2"): "cast to bfloat16",
    ("swaps_gate_and_value", "dinov2_swiglu"): "gate and value exchanged",
    ("forgets_the_class_row", "dinov2_registers"): "the first row of pos_embed not added",
    ("adds_position_to_registers", "dinov2_registers"): "the first row of pos_embed added once more",
    ("bilinear_kernel", "openai_clip"): "pseudo-inverse of bilinear with antialias",
    ("antialias_off_kernel", "openai_clip"): "pseudo-inverse of bicubic without antialias",
    ("kernel_like_an_image", "openai_clip"): "like an image",
    ("bilinear_grid", "openai_clip"): "resampled bilinear with antialias",
    ("antialias_off_grid", "openai_clip"): "resampled bicubic without antialias",
    ("nearest_grid", "openai_clip"): "nearest neighbour",
    ("swaps_height_and_width", "openai_clip"): "height and width exchanged",
    ("tables_like_images", "beit"): "like an image, bilinear without align_corners",
    ("swaps_split_projections", "eva02"): "_proj.weight",
    ("ignores_the_filter_asked_for", "flexivit"): "bicubic with antialias",
    ("keeps_the_out_kernel_as_stored", "google_npz"): "transposed",
    ("swaps_layer_scales", "deit3"): "the tensor blocks.",
    ("swaps_the_two_tokens", "deit_distilled"): "_token",
}


@pytest.mark.parametrize(("fake", "family"), _OF_FAKES)
def test_a_wrong_loader_is_told_what_it_does(fake: str, family: str) -> None:
    """In most of the cases on which it shows: where a tensor has few elements, a plainer transformation may do the same."""
    said = []
    for case in smoke_cases(family, 0)[::3]:
        trial = Trial(FAMILIES[family], case, loader(fake))
        for problem in judge(INVARIANTS["reference-agreement"], trial).problems:
            said.append(diagnose(problem, trial, trial.base.state))
    assert sum(_OF_FAKES[fake, family] in text for text in said) > 0.3 * len(said) > 0


def test_nothing_is_said_of_what_no_transformation_explains() -> None:
    noise = torch.Generator().manual_seed(0)
    for name in (KERNEL, GRID, QKV, "norm.weight", "cls_token"):
        about = expectation()
        assert told(about, name, lambda t: t + torch.randn(t.shape, generator=noise)) == ""
    # A part of the difference is no explanation.
    assert told(expectation(), QKV, lambda t: _order(1, 0, 2)(t) + 0.1) == ""


def test_the_message_tells_the_worst_element_and_the_bound() -> None:
    want = torch.arange(12.0).reshape(3, 4)
    got = want.clone()
    got[1, 2] += 0.5
    assert value_problem("value", "x", got, want, 0.0).message == "x is off by 0.5, and has to be equal"
    assert value_problem("value", "x", got, want, 0.125).message == "x is off by 0.5, rounding allows 0.125"
    assert value_problem("value", "x", got, want, 0.125).fraction == 4
    got[2, 3] = float("nan")
    problem = value_problem("value", "x", got, want, 0.125)
    assert (problem.message, problem.at) == ("x holds NaN or Inf in 1 of 12 entries", (2, 3))
    (differs,) = exact_differences({"a.7.x": want}, {"a.7.x": want + 1})
    assert (differs.tensor, differs.message) == ("a.*.x", "a.7.x is off by 1, and has to be equal")


def test_the_excerpt_is_around_the_worst_element() -> None:
    want = torch.arange(24.0).reshape(2, 12)
    got = want.clone()
    got[1, 11] = -1000
    assert excerpt(value_problem("value", "x", got, want, 0.0)) == [
        "expected  x[1, 7:12] of 2x12:  19  20  21  22     23",
        "got       x[1, 7:12] of 2x12:  19  20  21  22  -1000",
    ]
    assert excerpt(Problem("missing-key", "x", "x is missing")) == []
