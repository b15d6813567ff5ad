"""The reference loader: formats read both ways, detection, loading, and what it refuses. No timm anywhere."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import Tensor

from tests.small_vit import Model, facts_of, image_encoder, model, refusal
from timm_conformance import reference
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.checkpoints import state_dicts, wrappers
from timm_conformance.drawing.strategies import cases, strata_of
from timm_conformance.families import FAMILIES, READ, Family
from timm_conformance.reference import FORMATS, LoadError, detect, load_state_dict, unwrap
from timm_conformance.reference.embeddings import resample_position_grid
from timm_conformance.targets.declared_size import declared_size, default_size
from timm_conformance.trials.problems import exact_differences
from timm_conformance.trials.trial import Trial

KERNEL = "patch_embed.proj.weight"
GEOMETRY = Geometry((4, 4), (2, 2))

quick = settings(
    max_examples=20, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
every_family = pytest.mark.parametrize("family", READ.values(), ids=list(READ))


def any_case(family: Family) -> st.SearchStrategy[Case]:
    return st.sampled_from(strata_of(family)).flatmap(lambda stratum: cases(family, stratum))


# -- formats -------------------------------------------------------------------------------------------------------


def test_every_family_has_a_format_and_every_format_a_family() -> None:
    assert {family.format for family in FAMILIES.values()} == FORMATS.keys()
    assert all(FORMATS[name].name == name for name in FORMATS)


@every_family
def test_decode_is_the_exact_inverse_of_encode_in_any_key_order(family: Family) -> None:
    @quick
    @given(any_case(family), st.randoms(use_true_random=False))
    def check(case: Case, random) -> None:
        truth, form = state_dicts.truth(family, case), FORMATS[family.format]
        facts = facts_of(case.arch, case.source)
        upstream = state_dicts.encode(family, case, truth)
        stored = family.stored(case, truth) | {
            k: v for k, v in truth.items() if k == KERNEL
        }  # decoded to a convolution
        before = deepcopy(upstream)

        def decoded(state):
            """Without zeros that the case's model has no place for."""
            return {k: v for k, v in form.decode(state, facts).items() if k in stored or bool(v.any())}

        assert not exact_differences(stored, decoded(upstream))
        assert not exact_differences(before, upstream), "decode changed its input"
        shuffled = list(upstream.items())
        random.shuffle(shuffled)
        assert not exact_differences(stored, decoded(dict(shuffled)))
        order = list(truth.items())
        random.shuffle(order)
        assert not exact_differences(upstream, state_dicts.encode(family, case, dict(order)))
        assert not family.implied(case.arch) & upstream.keys()

    check()


@every_family
def test_an_encoded_checkpoint_is_its_own_format_and_no_other(family: Family) -> None:
    @quick
    @given(any_case(family), st.sampled_from(family.wrappers), st.booleans())
    def check(case: Case, wrapper: str, with_foreign: bool) -> None:
        upstream = state_dicts.encode(family, case, state_dicts.truth(family, case))
        beside = state_dicts.foreign(family, case) if with_foreign else {}
        state_dict = unwrap(wrappers.wrap(beside | upstream, wrapper))
        if not family.in_place:  # keys outside a Flax prefix are gone with it
            upstream = beside | upstream
        assert set(state_dict) == set(upstream)
        assert not exact_differences(upstream, state_dict)
        assert detect(state_dict) is FORMATS[family.format]
        assert [f.name for f in FORMATS.values() if f.evidence(state_dict)] == [family.format]

    check()


def test_a_tensor_no_rule_knows_is_refused_by_name() -> None:
    upstream, _ = image_encoder(Geometry((4, 4), (2, 2)), "openai_clip", pre_norm=True)
    with pytest.raises(LoadError, match=r"openai_clip format has no tensor named visual\.novelty$"):
        FORMATS["openai_clip"].decode(upstream | {"visual.novelty": torch.zeros(1)})
    with pytest.raises(LoadError, match=r"openai_clip format has no place for reg_token$"):
        FORMATS["openai_clip"].encode({"reg_token": torch.zeros(1, 1, 8)})


# -- loading -------------------------------------------------------------------------------------------------------


@every_family
def test_loading_resamples_the_truth_and_leaves_its_input_alone(family: Family) -> None:
    @quick
    @given(any_case(family), st.booleans())
    def check(case: Case, with_foreign: bool) -> None:
        assume(family.undecidable(case) is None)
        assume(family.undecidable_grid(case, default_size(case)) is None)
        truth = state_dicts.truth(family, case)
        upstream = state_dicts.encode(family, case, truth)
        if with_foreign:
            upstream |= state_dicts.foreign(family, case)
        checkpoint = wrappers.wrap(upstream, case.wrapper)
        before, objects = deepcopy(checkpoint), flat(checkpoint)
        destination = Model(family, case.arch, case.destination, declared_size(family, case, case.source))
        state = load_state_dict(checkpoint, destination, resampling=family.resampling(case.arch))

        trial = Trial(family, case, SimpleNamespace(device="cpu"))
        got = family.canonical(replace(case, in_chans=None), state)
        assert got.keys() == trial.expected.keys()
        assert not list(trial.compare_all(got, trial.expected, trial.bound))
        destination.load_state_dict(state, strict=True)

        after, originals = flat(checkpoint), flat(before)
        assert list(after) == list(originals)
        assert all(after[k] is objects[k] for k in after)
        for path, value in after.items():
            equal = torch.equal if isinstance(value, Tensor) else operator.eq
            assert equal(value, originals[path]), path

    check()


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a nested checkpoint by its path, in order."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{path}/{name}").items()}


@pytest.mark.parametrize(
    "geometry",
    [Geometry((16, 16), (7, 28)), Geometry((16, 16), (2, 8)), Geometry((4, 2), (1, 5)), Geometry((3, 3), (4, 4))],
    ids=str,
)
def test_a_models_own_checkpoint_reloads_unchanged_when_nothing_is_declared(geometry: Geometry) -> None:
    own, _ = image_encoder(geometry)
    state = load_state_dict(own, model(geometry))
    assert not exact_differences(own, state)
    assert all(state[k] is own[k] for k in own)


def test_an_undecidable_grid_is_refused_until_its_input_size_is_given() -> None:
    source, destination = Geometry((4, 4), (2, 4)), Geometry((4, 4), (3, 3))
    upstream, _ = image_encoder(source)
    text = refusal(upstream, model(destination))
    assert "8 position tokens" in text
    assert "input_size=(height, width)" in text
    # Nine rows may also be a grid of 3x3 without one for the class token.
    text = refusal(upstream, model(destination, declared=(12, 12)))
    assert "9 position tokens" in text
    assert "input_size=(height, width)" in text

    for grid, state in (
        ((2, 4), load_state_dict(upstream, model(destination), input_size=(8, 16))),
        ((4, 2), load_state_dict(upstream, model(destination), input_size=(16, 8))),
        ((2, 4), load_state_dict(upstream, model(destination, declared=(8, 16)))),
        ((2, 4), load_state_dict(upstream, model(destination, declared=(16, 8)), input_size=(8, 16))),
    ):
        expected = resample_position_grid(upstream["pos_embed"], grid, (3, 3), 1)
        assert torch.equal(state["pos_embed"], expected), grid


def test_the_declared_size_decides_before_the_models_own_grid_and_a_square() -> None:
    """16 tokens are 2x8 when declared so, though the model has 16 tokens as 8x2 and 16 is a square."""
    upstream, _ = image_encoder(Geometry((4, 4), (2, 8)))
    tall = Geometry((4, 4), (8, 2))
    want = resample_position_grid(upstream["pos_embed"], (2, 8), (8, 2), 1)
    assert torch.equal(load_state_dict(upstream, model(tall, declared=(8, 32)))["pos_embed"], want)
    assert load_state_dict(upstream, model(tall))["pos_embed"] is upstream["pos_embed"]
    # With nothing declared and another number of tokens in the model, a square it is.
    wide = load_state_dict(upstream, model(Geometry((4, 4), (2, 5))))
    assert torch.equal(wide["pos_embed"], resample_position_grid(upstream["pos_embed"], (4, 4), (2, 5), 1))


def test_the_source_grid_is_counted_in_patches_of_the_checkpoint() -> None:
    source, destination = Geometry((4, 2), (2, 3)), Geometry((2, 2), (5, 4))
    upstream, _ = image_encoder(source)
    state = load_state_dict(upstream, model(destination, declared=source.img_size))
    assert torch.equal(state["pos_embed"], resample_position_grid(upstream["pos_embed"], (2, 3), (5, 4), 1))


@pytest.mark.parametrize(("family", "options"), [("timm_native", {}), ("openai_clip", {"pre_norm": True})])
def test_the_classifier_is_dropped_where_the_model_has_none(family: str, options: dict) -> None:
    geometry = Geometry((4, 4), (2, 2))
    upstream, case = image_encoder(geometry, family, **options)
    state = load_state_dict(upstream, model(geometry, family, num_classes=0, **options))
    truth = state_dicts.truth(FAMILIES[family], case)
    assert {"head.weight", "head.bias"} <= truth.keys()
    assert not exact_differences({k: v for k, v in truth.items() if not k.startswith("head.")}, state)


# -- independence --------------------------------------------------------------------------------------------------


def test_forward_runs_the_upstream_tensors_of_a_wrapped_checkpoint() -> None:
    upstream, case = image_encoder(GEOMETRY, "openai_clip", pre_norm=True)
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = reference.forward({"state_dict": upstream}, image, case.arch)
    assert out.shape == (2, 3)
    native = reference.forward(state_dicts.truth(FAMILIES["openai_clip"], case), image, case.arch | {"eps": 1e-5})
    assert torch.allclose(out.double(), native.double(), rtol=0, atol=64 * torch.finfo(torch.float32).eps)
