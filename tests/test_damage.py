"""What the rejection invariants call damage: the reference refuses all of it, and nothing that a checkpoint may be is any."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from tests.small_vit import ARCH, OPTIONS, geometry_of, model
from timm_conformance import reference
from timm_conformance.cases.case import DAMAGES, Case, Contents
from timm_conformance.checkpoints import wrappers
from timm_conformance.families import FAMILIES
from timm_conformance.reference import LoadError
from timm_conformance.trials.damage import EDITS, apply_damage, effective_damages
from timm_conformance.trials.expectation import Expectation

# Families whose smallest models need nothing that tests/small_vit.py does not know.
SMALL = tuple(OPTIONS)


def small(family: str, wrapper: str = "bare", seed: int = 0, **options) -> Expectation:
    """A small checkpoint in a model of its own geometry."""
    geometry = geometry_of(family)
    arch = ARCH | OPTIONS.get(family, {}) | options
    case = Case(family, arch, geometry, geometry, wrapper=wrapper, contents=Contents("normal", seed))
    return Expectation(FAMILIES[family], case)


def loads(whole: Expectation, state: dict) -> bool:
    """Whether the reference loads a checkpoint, into a model of the case's."""
    arch = {k: v for k, v in whole.case.arch.items() if k not in ARCH or v != ARCH[k]}
    into = model(whole.case.source, whole.case.family, declared=whole.case.source.img_size, **arch)
    try:
        return bool(reference.load_state_dict(wrappers.wrap(state, whole.case.wrapper), into))
    except LoadError:
        return False


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("family", SMALL)
def test_the_reference_refuses_every_damage(family, kind):
    """Every third, for time's sake; it loads the checkpoint that the damage was done to."""
    whole = small(family)
    assert loads(whole, whole.upstream)
    found = list(effective_damages(whole, list(EDITS[kind](whole))[::3]))
    assert found
    assert not [damage.what for damage, state in found if loads(whole, state)]


def damaged(whole: Expectation, kind: str) -> set[str]:
    return {damage.tensor for damage, _ in effective_damages(whole, EDITS[kind](whole))}


def test_what_may_be_missing_is_no_damage():
    """A mask token, positions that are not patches', a counter that torch fills in; nor whatever is done to it."""
    for kind in DAMAGES:
        assert "mask_token" not in damaged(small("dinov2"), kind)
        assert not any("num_batches_tracked" in key for key in damaged(small("mobileclip"), kind))
    assert "cls_token" in damaged(small("dinov2"), "missing")


def test_zeros_that_the_model_has_no_place_for_are_no_damage():
    """A DINOv3 whose biases were trained to nothing."""
    options = {"num_classes": 0, "reg_tokens": 1, "pos_embed": "none", "fc_norm": False, "layer_scale": True}
    for bias, judged in (("zero", False), ("learnt", True)):
        whole = small("dinov3", bias=bias, qkv_bias=bias == "learnt", **options)
        for kind in ("missing", "wider", "cut"):
            assert ("blocks.0.attn.qkv.bias" in damaged(whole, kind)) is judged


def test_another_geometry_is_no_damage():
    """Fewer or more positions, a kernel of another patch or other channels, or on its side: nobody can tell."""
    whole = small("timm_native")
    changes = {
        "wider": ("axis 2 of patch_embed.proj.weight", "axis 1 of patch_embed.proj.weight", "axis 1 of pos_embed"),
        "cut": ("axis 3 of patch_embed.proj.weight", "axis 1 of pos_embed"),
    }
    for kind, harmless in changes.items():
        every = [damage.what for damage in EDITS[kind](whole)]
        counted = [damage.what for damage, _ in effective_damages(whole, EDITS[kind](whole))]
        for start in harmless:
            assert any(what.startswith(start) for what in every)
            assert not any(what.startswith(start) for what in counted)
        assert any(what.startswith("axis 0 of patch_embed.proj.weight") for what in counted)
        assert any(what.startswith("axis 2 of pos_embed") for what in counted)


def test_stacked_blocks_are_damaged_together():
    """In a scanned file they are one array."""
    key = "Transformer/encoderblock_0/LayerNorm_0/scale"
    for wrapper, apart in (("params/", True), ("params/+scan", False)):
        whole = small("big_vision", wrapper, depth=2, no_embed_class=True, fc_norm=False)
        _, state = next((d, s) for d, s in effective_damages(whole, EDITS["cut"](whole)) if d.tensor == key)
        lengths = [len(state[key.replace("_0/L", f"_{i}/L")]) for i in range(2)]
        assert lengths == ([1, 8] if apart else [1, 1])
        assert wrappers.wrap(state, wrapper)


def test_the_seed_says_what_is_damaged():
    """Each kind in its turn, then the next tensor; the same every time, and the checkpoint itself stays whole."""
    seen = set()
    for seed in range(4 * len(DAMAGES)):
        whole = small("openai_clip", seed=seed)
        before = {k: v.clone() for k, v in whole.upstream.items()}
        damage, state = apply_damage(whole)
        again, _ = apply_damage(Expectation(whole.family, replace(whole.case)))
        assert (damage.what, damage.tensor) == (again.what, again.tensor)
        assert whole.case.damage == DAMAGES[seed % len(DAMAGES)]
        assert all(torch.equal(v, whole.upstream[k]) for k, v in before.items())
        assert {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in before.items()}
        seen.add(damage.what)
    assert len(seen) > 2 * len(DAMAGES)
