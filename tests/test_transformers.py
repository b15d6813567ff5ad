"""The names of Hugging Face transformers: those of a file and of a module, and what lies beside an encoder."""

from __future__ import annotations

import pytest
import torch

from tests.small_vit import image_encoder, model, refusal
from timm_conformance.cases.case import Geometry
from timm_conformance.check import advice
from timm_conformance.families import FAMILIES
from timm_conformance.reference import FORMATS, LoadError, detect, forward, load_state_dict
from timm_conformance.trials.problems import exact_differences

GEOMETRY = Geometry((4, 4), (2, 2))
FILE = {"names": "saved", "bare": False}
DINOV2 = {"num_classes": 0, "layer_scale": True}
BEIT = {"tables": "block", "pos_embed": "none", "global_pool": "token", "layer_scale": True, "num_classes": 0}

# One block of each family in a file, and in the state_dict() of transformers 5.24.
ATTENTION = {
    "attention.attention.query.weight": "attention.q_proj.weight",
    "attention.attention.value.bias": "attention.v_proj.bias",
    "attention.output.dense.weight": "attention.o_proj.weight",
}
ENCODER = {**ATTENTION, "intermediate.dense.bias": "mlp.fc1.bias", "output.dense.weight": "mlp.fc2.weight"}
TABLE = "relative_position_bias.relative_position_bias_table"


@pytest.mark.parametrize(
    ("family", "options", "root", "layers", "names"),
    [
        ("transformers_vit", {}, "vit.", "layers.0.", ENCODER),
        ("transformers_deit", {"reg_tokens": 1, "num_classes": 3}, "deit.", "layers.0.", ENCODER),
        ("transformers_deit_distilled", {"dist_token": True}, "deit.", "layers.0.", ENCODER),
        ("transformers_vit_mae", {"num_classes": 0}, "vit.", "layers.0.", ENCODER),
        (
            "transformers_ijepa",
            {"class_token": False, "global_pool": "avg", "fc_norm": False},
            "ijepa.",
            "layers.0.",
            ENCODER,
        ),
        ("transformers_beit", BEIT, "beit.", "layers.0.", {**ENCODER, f"attention.attention.{TABLE}": TABLE}),
        ("transformers_dinov2", DINOV2, "dinov2.", "encoder.layer.0.", ATTENTION),
        (
            "transformers_dinov2_registers",
            {**DINOV2, "reg_tokens": 2, "no_embed_class": True},
            "dinov2_with_registers.",
            "encoder.layer.0.",
            ATTENTION,
        ),
        (
            "transformers_dinov2_swiglu",
            {**DINOV2, "swiglu": True},
            "dinov2.",
            "encoder.layer.0.",
            {**ATTENTION, "mlp.weights_out.weight": "mlp.down_proj.weight"},
        ),
    ],
)
def test_the_suite_draws_the_names_of_files_and_of_modules(family, options, root, layers, names):
    """And both are read as the same model, with the encoder's name in front and without it."""
    saved, modules = (image_encoder(GEOMETRY, family, **FILE | options | {"names": n})[0] for n in ("saved", "modules"))
    for old, new in names.items():
        assert f"{root}encoder.layer.0.{old}" in saved
        assert f"{root}{layers}{new}" in modules
    expected = FORMATS[family].decode(saved)
    assert not exact_differences(expected, FORMATS[family].decode(modules))
    if family in ("transformers_deit", "transformers_vit_mae"):
        return
    for written in ("saved", "modules"):
        bare, _ = image_encoder(GEOMETRY, family, **FILE | options | {"names": written, "bare": True, "num_classes": 0})
        assert not any(name.startswith(root) for name in bare)
        encoder = {k: v for k, v in expected.items() if not k.startswith("head")}
        assert FORMATS[family].decode(bare).keys() == encoder.keys()
        assert detect(bare).name == family


def test_gate_and_value_are_one_layer_in_a_file_and_two_in_a_module():
    """transformers models/dinov2/modeling_dinov2.py: Dinov2SwiGLUFFN."""
    options = {**FILE, **DINOV2, "swiglu": True}
    saved, modules = (
        image_encoder(GEOMETRY, "transformers_dinov2_swiglu", **options | {"names": n})[0] for n in ("saved", "modules")
    )
    at = "dinov2.encoder.layer.0.mlp."
    both = torch.cat([modules[f"{at}gate_proj.weight"], modules[f"{at}up_proj.weight"]])
    assert torch.equal(saved[f"{at}weights_in.weight"], both)


def test_the_final_norm_of_a_masked_beit_lies_outside_its_encoder():
    """transformers models/beit/modeling_beit.py: BeitForMaskedImageModeling."""
    state, case = image_encoder(GEOMETRY, "transformers_beit", **FILE | BEIT)
    norm = "beit.layernorm."
    masked = {k.replace(norm, "layernorm."): v for k, v in state.items()}
    masked |= {"lm_head.weight": torch.ones(5, 8), "beit.embeddings.mask_token": torch.ones(1, 1, 8)}
    assert masked.keys() != state.keys()
    image = torch.randn(2, 3, *GEOMETRY.img_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(forward(masked, image, case.arch), forward(state, image, case.arch))
    destination = model(GEOMETRY, "transformers_beit", **FILE | BEIT)
    assert not exact_differences(load_state_dict(state, destination), load_state_dict(masked, destination))


def test_the_index_of_an_old_table_is_left_out():
    """4.x kept relative_position_index in its files."""
    state, _ = image_encoder(GEOMETRY, "transformers_beit", **FILE | BEIT)
    at = "beit.encoder.layer.0.attention.attention.relative_position_bias."
    old = state | {f"{at}relative_position_index": torch.zeros(5, 5, dtype=torch.int64)}
    assert not exact_differences(FORMATS["transformers_beit"].decode(state), FORMATS["transformers_beit"].decode(old))


def test_an_encoder_of_another_model_is_of_no_format():
    """Flava has a ViT's names behind other words, so nothing says what becomes of its tokens."""
    state, _ = image_encoder(GEOMETRY, "transformers_vit", **FILE)
    with pytest.raises(LoadError, match="unknown checkpoint format"):
        detect({k.replace("vit.", "flava.image_model."): v for k, v in state.items()})


def test_a_classifier_of_two_tokens_is_refused_by_a_model_with_classes():
    """Dinov2ForImageClassification reads the class token beside the mean patch token."""
    state, _ = image_encoder(GEOMETRY, "transformers_dinov2", **FILE | DINOV2)
    state |= {"classifier.weight": torch.ones(3, 16), "classifier.bias": torch.ones(3)}
    options = FILE | DINOV2 | {"num_classes": 3}
    said = refusal(state, model(GEOMETRY, "transformers_dinov2", **options))
    assert "head.weight is (3, 16), the model has (3, 8)" in said
    assert "--num-classes 0" in advice.after_refusal(said, "transformers_dinov2")[0]
    assert "head.weight" not in load_state_dict(state, model(GEOMETRY, "transformers_dinov2", **FILE | DINOV2))


def test_a_distillation_token_without_a_classifier_needs_a_register():
    """DeiTForImageClassification has no classifier of the distillation token."""
    state, _ = image_encoder(GEOMETRY, "transformers_deit", **FILE, reg_tokens=1, num_classes=3)
    said = refusal(state, model(GEOMETRY, "transformers_deit", **FILE, reg_tokens=0, num_classes=3))
    assert "unexpected: reg_token" in said
    assert "reg_tokens=1" in advice.after_refusal(said, "transformers_deit")[0]


def test_a_check_says_what_no_release_reads():
    assert advice.in_no_release("transformers_vit") == ["no timm release reads transformers_vit; the reference does"]
    assert advice.in_no_release("dinov2") == []
    assert {name for name, family in FAMILIES.items() if family.in_no_release} >= {
        "transformers_vit",
        "transformers_beit",
    }
