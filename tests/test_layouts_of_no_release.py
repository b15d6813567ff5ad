"""Layouts that no timm release reads: what the reference makes of them, refuses of them, and what ``check`` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor

from tests.check_files import TINY, save, tensors
from tests.small_vit import GEOMETRY, Model, image_encoder, model, refusal
from tests.test_check import answer
from timm_conformance import reference
from timm_conformance.families import FAMILIES
from timm_conformance.targets.target import MODEL_RELEASE

DINOV3 = {
    "num_classes": 0,
    "reg_tokens": 2,
    "global_pool": "token",
    "swiglu": "",
    "bias": "learnt",
    "qkv_bias": True,
    "pos_embed": "none",
    "fc_norm": False,
    "layer_scale": True,
}
SIGLIP = {"num_classes": 0, "class_token": False, "global_pool": "map", "act": "gelu_tanh", "head": "attention"}
MMLAB = {"global_pool": "token", "fc_norm": False, "pre_norm": False, "layer_scale": False}


def made(family: str, **options: Any) -> tuple[dict[str, Tensor], Model]:
    """A small upstream checkpoint of a family, and a model for it."""
    return image_encoder(GEOMETRY, family, **options)[0], model(GEOMETRY, family, **options)


@pytest.mark.parametrize("block", ["layer.0.", "model.layer.0."])
def test_a_bias_of_the_keys_is_refused_unless_it_is_zero(block: str) -> None:
    """timm's models have none, and under rotary embedding it would count."""
    family = "transformers_dinov3" if block == "layer.0." else "transformers_dinov3_module"
    state, into = made(family, **DINOV3)
    bias = torch.zeros(8)
    plain = reference.load_state_dict(state, into)
    with_zeros = reference.load_state_dict(state | {f"{block}attention.k_proj.bias": bias}, into)
    assert with_zeros.keys() == plain.keys()
    bias[3] = 0.5
    assert "a bias of the keys" in refusal(state | {f"{block}attention.k_proj.bias": bias}, into)


@pytest.mark.parametrize(
    ("family", "options", "layer"),
    [
        ("torchvision_vit", {}, "heads.pre_logits"),
        ("torchvision_vit_older", {}, "heads.pre_logits"),
        ("open_mmlab", MMLAB, "head.layers.pre_logits"),
    ],
)
def test_a_representation_layer_is_refused_unless_nothing_reads_it(family: str, options: dict, layer: str) -> None:
    """timm's models have none. Without a classifier the encoder is whole."""
    state, into = made(family, **options)
    state |= {f"{layer}.weight": torch.eye(8), f"{layer}.bias": torch.zeros(8)}
    assert f"the classifier reads the output of {layer}.weight" in refusal(state, into)
    encoder = model(GEOMETRY, family, **options | {"num_classes": 0})
    assert "norm.weight" in reference.load_state_dict(state, encoder)


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("embeddings.patch_embedding.weight", (8, 50), "a linear patch embedding with 50 columns is no square patch"),
        ("embeddings.position_embedding.weight", (5, 8), "has a square of position tokens, not 5"),
    ],
)
def test_patches_and_positions_of_siglip2_are_square(name: str, shape: tuple[int, int], text: str) -> None:
    state, into = made("transformers_siglip2", **SIGLIP)
    assert text in refusal(state | {f"vision_model.{name}": torch.zeros(shape)}, into)


def test_the_positions_of_siglip2_are_a_square_whatever_the_declared_size() -> None:
    """A declared size that accounts for as many tokens says nothing of a square that belongs to no image."""
    state, into = made("transformers_siglip2", **SIGLIP)
    into.pretrained_cfg = {"input_size": (3, 4, 16)}
    loaded = reference.load_state_dict(state, into)
    assert torch.equal(loaded["pos_embed"][0], state["vision_model.embeddings.position_embedding.weight"])


def test_a_stem_of_convolutions_is_refused_by_its_names() -> None:
    """torchvision's option ``conv_stem_configs``."""
    state, into = made("torchvision_vit")
    text = refusal(state | {"conv_proj.conv_last.weight": torch.zeros(8, 8, 1, 1)}, into)
    assert "the torchvision_vit format has no tensor named conv_proj.conv_last.weight" in text


def test_a_classifier_of_siglip_does_not_need_the_head_that_it_does_not_use() -> None:
    """``vision_use_head=False``."""
    options = SIGLIP | {"global_pool": "avg", "fc_norm": False, "head": "classifier", "num_classes": 3}
    state, into = made("transformers_siglip", **options)
    bare = {k: v for k, v in state.items() if not k.startswith("vision_model.head.")}
    assert bare.keys() < state.keys()
    whole, without = reference.load_state_dict(state, into), reference.load_state_dict(bare, into)
    assert whole.keys() == without.keys()
    assert all(torch.equal(whole[name], without[name]) for name in whole)


def test_the_average_that_torchvisions_training_script_saves_is_read() -> None:
    """Its names are those of ``AveragedModel``: a counter, and ``module.`` before the model's."""
    state, into = made("torchvision_vit")
    average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1)).state_dict()
    assert "n_averaged" in average
    average = {"n_averaged": average["n_averaged"]} | {f"module.{k}": v for k, v in state.items()}
    trained = {k: v + 1 for k, v in state.items()}
    loaded = reference.load_state_dict({"model": trained, "model_ema": average, "epoch": 1}, into)
    assert torch.equal(loaded["norm.weight"], state["encoder.ln.weight"])


def test_a_layout_in_no_release_is_judged_on_none() -> None:
    families = [f for f in FAMILIES.values() if f.in_no_release]
    assert {"transformers_clip", "open_mmlab", "torchvision_vit"} <= {f.name for f in families}
    assert not any(f.supported_by(Version(MODEL_RELEASE)) for f in families)


def test_check_names_the_layout_and_what_to_do(tmp_path: Path) -> None:
    found = answer(save(tmp_path, tensors("open_mmlab", TINY, **MMLAB), "pth", "state_dict"))
    assert (found.format, found.exit_code, found.loaded) == ("open_mmlab", 1, False)
    assert found.forward.verdict == "not compared"
    assert found.advice[0] == "no timm release reads open_mmlab; the reference does"
    assert "--fix" in found.advice[1]
