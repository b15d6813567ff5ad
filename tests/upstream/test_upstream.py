"""Real upstream models against the reference's forward and against timm loading their checkpoints: ``nox -s upstream``."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn

from tests.documents import compared_families
from timm_conformance import reference
from timm_conformance.cases.regimes import regimes
from timm_conformance.checkpoints import state_dicts
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.reference import FORMATS, Facts, Format
from timm_conformance.reference.embeddings import resample_position_window
from timm_conformance.reference.formats.rules import Drop, match
from timm_conformance.targets.declared_size import declared_size
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target
from timm_conformance.trials import bounds
from timm_conformance.trials.problems import exact_differences

from . import (
    beit3,
    clip,
    configurations,
    dino,
    flax_vit,
    hugging_face,
    hugging_face_towers,
    masked,
    mobileclip,
    open_mmlab,
    packages,
    radio,
    torch_vision,
)
from .model import Upstream

if packages.VARIABLE not in os.environ:
    pytest.skip("needs the upstream packages: run nox -s upstream", allow_module_level=True)

TIMM = f"timm=={MODEL_RELEASE}"
BUILDERS: dict[str, Callable[[], Upstream]] = {
    builder.__name__: builder
    for module in (
        *(clip, dino, masked, beit3, radio, mobileclip, flax_vit),
        *(hugging_face, hugging_face_towers, open_mmlab, torch_vision),
    )
    for builder in module.BUILDERS
}
# Before registers, the class token's row of the positions is added to the token; encoding gives another pair of that sum.
_FOLDED = ("cls_token", "pos_embed", "position_embeddings")
# What a classifier of Hugging Face's holds of its tower and does not use, by format; encoding gives other values.
_UNUSED = {
    "transformers_clip": "vision_model.post_layernorm.",
    "transformers_siglip": "vision_model.head.",
    "transformers_siglip2": "vision_model.head.",
}


@pytest.fixture(scope="session")
def loaders() -> dict[str, Loader]:
    """timm's loader and the reference; making them also fixes which timm the upstream packages import."""
    return {target: Loader(parse_target(target)) for target in (TIMM, "reference")}


@pytest.fixture(scope="module", params=BUILDERS)
def upstream(request: pytest.FixtureRequest, loaders: dict[str, Loader]) -> Upstream:
    return BUILDERS[request.param]()


def model_for(loader: Loader, upstream: Upstream) -> nn.Module:
    """A destination model of its own, built from the family's arguments, declaring the checkpoint's true input size."""
    family, case = upstream.suite_family, upstream.case
    return copy.deepcopy(loader.model(family, case, case.destination, declared_size(family, case, case.source)))


def convert(loader: Loader, upstream: Upstream, model: nn.Module) -> dict[str, Tensor]:
    """What a loader makes of the checkpoint, through a real file where that is what timm reads."""
    checkpoint = state_dicts.copy(upstream.checkpoint, "cpu")
    return loader.convert(upstream.suite_family, upstream.arch, checkpoint, model)


def double(checkpoint: Any) -> Any:
    """A checkpoint with every floating point tensor in float64."""
    if isinstance(checkpoint, Mapping):
        return {key: double(value) for key, value in checkpoint.items()}
    return checkpoint.double() if isinstance(checkpoint, Tensor) and checkpoint.is_floating_point() else checkpoint


def assert_as_upstream(upstream: Upstream, output: Tensor, record: Callable[[str, object], None]) -> None:
    """``output`` is upstream's, within rounding."""
    assert output.shape == upstream.output.shape
    assert float(upstream.output.std()) > 0.1, "an output that hardly varies shows nothing"
    difference = (output - upstream.output).abs()
    record("difference", (float(difference.max()), upstream.limit))
    assert bounds.fraction(difference, upstream.limit) <= 1, f"off by {float(difference.max()):.3g}"


def test_the_format_is_found(upstream: Upstream) -> None:
    state = reference.unwrap(upstream.checkpoint)
    assert reference.detect(state).name == upstream.suite_family.format


def test_the_reference_forward_computes_what_upstream_computes(
    upstream: Upstream, record_property: Callable[[str, object], None]
) -> None:
    family, arch, checkpoint = upstream.suite_family, upstream.arch, double(upstream.checkpoint)
    if upstream.positions:
        sizes = upstream.source.grid_size, upstream.case.destination.grid_size
        stored = checkpoint[upstream.positions]
        checkpoint[upstream.positions] = resample_position_window(stored, *sizes, family.resampling(arch))
    output = reference.forward(checkpoint, upstream.image, {**arch, **family.forward_arch(upstream.case)})
    assert_as_upstream(upstream, output, record_property)


@pytest.mark.parametrize("target", [TIMM, "reference"])
def test_a_loaded_model_computes_what_upstream_computes(
    upstream: Upstream, loaders: dict[str, Loader], target: str, record_property: Callable[[str, object], None]
) -> None:
    model = model_for(loaders[target], upstream)
    if target == TIMM and upstream.suite_family.in_no_release:
        assert_refused(loaders[TIMM], upstream, model)
        return
    state = convert(loaders[target], upstream, model)
    if target == TIMM and upstream.known:
        assert_fails_as_the_ledger_says(upstream, state, convert(loaders["reference"], upstream, model), model)
        return
    model.load_state_dict(state, strict=True)
    with torch.inference_mode():
        output = model.double().eval()(upstream.image).clone()
    assert_as_upstream(upstream, output, record_property)


def assert_refused(loader: Loader, upstream: Upstream, model: nn.Module) -> None:
    """timm does not read the layout: the conversion raises, or what it returns does not load strictly."""
    with pytest.raises((AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)):
        model.load_state_dict(convert(loader, upstream, model), strict=True)


def assert_fails_as_the_ledger_says(
    upstream: Upstream, state: dict[str, Tensor], right: dict[str, Tensor], model: nn.Module
) -> None:
    """timm's state dict is right but for the one bug: each difference is that ledger entry's, and there is one."""
    entry = load_ledger(DEFAULT_LEDGER).entry(upstream.known)
    assert entry is not None
    assert entry.applies_to(Version(MODEL_RELEASE))
    family, case = upstream.suite_family, upstream.case
    met = regimes(case, family.num_prefix_tokens(case.arch)) | family.tags(case)
    problems = exact_differences(right, state)
    assert problems
    assert [p for p in problems if not entry.covers(family.name, "native-identity", p.kind, p.tensor, met)] == []
    if state.keys() == model.state_dict().keys():
        return
    with pytest.raises(RuntimeError, match=r"(Missing|Unexpected) key"):
        model.load_state_dict(state, strict=True)


def test_the_real_keys_obey_the_law_of_the_format(upstream: Upstream) -> None:
    family, form = upstream.suite_family, FORMATS[upstream.suite_family.format]
    state = {k: v for k, v in reference.unwrap(upstream.checkpoint).items() if k.startswith(form.namespace)}
    shapes = family.shapes(upstream.arch, upstream.source)
    facts = Facts(num_heads=upstream.arch["num_heads"], fc_norm="fc_norm.weight" in shapes)
    decoded = form.decode(state, facts)  # refuses a name it does not know
    assert {k: tuple(v.shape) for k, v in decoded.items()} == shapes
    implied = family.implied(upstream.arch)
    encoded = form.encode({k: v for k, v in decoded.items() if k not in implied}, facts)
    encoded = family.written(upstream.case, encoded)
    assert not exact_differences(decoded, form.decode(encoded, facts))
    assert not exact_differences(kept(form, state), kept(form, encoded))


def kept(form: Format, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that decoding and encoding must give back bit for bit, Hugging Face's spelling of "gamma" aside."""
    folds = any(key.endswith("register_tokens") for key in state)
    out = {}
    for key, value in state.items():
        if any(isinstance(rule, Drop) and match(rule.upstream, key) is not None for rule in form.rules):
            continue
        if "classifier.weight" in state and key.startswith(_UNUSED.get(form.name, ())):
            continue
        if folds and key.endswith(_FOLDED):
            value = torch.zeros_like(value)
        if key.endswith("embed_positions.A.weight"):  # BEiT-3 never reads the first two
            value = value[2:]
        out[key.replace(".grandma", ".gamma")] = value
    return out


def test_the_page_says_which_families_are_compared(loaders: dict[str, Loader]) -> None:
    """Those of its first table; `tests/test_docs.py` asks for the others."""
    assert {build().family for build in BUILDERS.values()} == compared_families()


def test_the_published_configurations_are_those_of_the_snapshot():
    """Refresh ``fixtures/configurations.json`` with ``python -m tests.upstream.configurations``."""
    assert configurations.snapshot() == json.loads(configurations.PATH.read_text(encoding="utf-8"))
