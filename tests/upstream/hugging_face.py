"""Hugging Face transformers: each model as ``save_pretrained`` writes it, and as its ``state_dict()`` gives it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from timm_conformance.cases.case import Geometry

from .model import PATCH4, TINY, Upstream, randomise, saved
from .packages import load_whole

_WIDE = Geometry((4, 4), (3, 5))
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_IMAGE = {"image_size": 16, "patch_size": 4}
_MLP = {"intermediate_size": 128}
_SWIGLU = {"use_swiglu_ffn": True}

Run = Callable[[nn.Module, Tensor], Tensor]


def _logits(model: Any, image: Tensor) -> Tensor:
    return model(image).logits


def _class_token(model: Any, image: Tensor) -> Tensor:
    return model.base_model(image).last_hidden_state[:, 0]


def _upstream(
    family: str,
    module: str,
    name: str,
    config: Mapping[str, Any],
    run: Run,
    names: str,
    source: Geometry = PATCH4,
    **arch: Any,
) -> Upstream:
    """A tiny ``name`` of ``transformers.models.MODULE``, with its file's names (``saved``) or its modules' (``modules``)."""
    models = f"transformers.models.{module}"
    prefix = name.partition("For")[0].removesuffix("Model")
    made = getattr(load_whole(f"{models}.configuration_{module}"), f"{prefix}Config")(**_SIZES, **_IMAGE | config)
    model = randomise(getattr(load_whole(f"{models}.modeling_{module}"), name)(made), torch.float32)
    checkpoint = _file(model) if names == "saved" else saved(model)
    model.double()
    return Upstream(
        family=family,
        origin=f"transformers: models/{module}/modeling_{module}.py {name}",
        arch={**TINY, "num_classes": 0, "bare": name.endswith("Model"), "names": names, **arch},
        checkpoint=checkpoint,
        run=lambda image: run(model, image),
        source=source,
    )


def _file(model: Any) -> dict[str, Tensor]:
    """The tensors of the file that ``save_pretrained`` writes."""
    with tempfile.TemporaryDirectory(prefix="timm-conformance-") as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


# -- ViT, DeiT, ViTMAE, I-JEPA -----------------------------------------------------------------------------------------


def _vit(names: str, **more: Any) -> Upstream:
    given = {"config": {**_MLP, "num_labels": 5}, "name": "ViTForImageClassification", "run": _logits, "num_classes": 5}
    return _upstream("transformers_vit", "vit", names=names, **given | more)


def hf_vit() -> Upstream:
    """A classifier's file."""
    return _vit("saved")


def hf_vit_modules() -> Upstream:
    """A classifier's state_dict()."""
    return _vit("modules")


def hf_vit_wide() -> Upstream:
    """Of a non-square image, and without biases of query, key and value."""
    config = {**_MLP, "num_labels": 5, "image_size": (12, 20), "qkv_bias": False}
    return _vit("saved", config=config, source=_WIDE, qkv_bias=False)


def hf_vit_bare() -> Upstream:
    """A bare encoder's file, with its pooler."""
    return _vit("saved", name="ViTModel", config=_MLP, run=_class_token, num_classes=0)


def hf_vit_bare_modules() -> Upstream:
    """A bare encoder's state_dict()."""
    return _vit("modules", name="ViTModel", config=_MLP, run=_class_token, num_classes=0)


def hf_vit_masked() -> Upstream:
    """A file of the model that completes masked images, with its mask token and its head."""
    config = {**_MLP, "encoder_stride": 4}
    return _vit("saved", name="ViTForMaskedImageModeling", config=config, run=_class_token, num_classes=0)


def _deit(names: str) -> Upstream:
    config = {**_MLP, "num_labels": 5}
    options = {"reg_tokens": 1, "num_classes": 5}
    return _upstream("transformers_deit", "deit", "DeiTForImageClassification", config, _logits, names, **options)


def hf_deit() -> Upstream:
    """The file of a classifier that reads the class token alone, beside a distillation token."""
    return _deit("saved")


def hf_deit_modules() -> Upstream:
    """Its state_dict()."""
    return _deit("modules")


def _distilled(names: str, name: str = "DeiTForImageClassificationWithTeacher", classes: int = 5) -> Upstream:
    def both_tokens(model: Any, image: Tensor) -> Tensor:
        return model(image).last_hidden_state[:, :2].mean(dim=1)

    config = {**_MLP, "num_labels": classes}
    run = _logits if classes else both_tokens
    options = {"dist_token": True, "num_classes": classes}
    return _upstream("transformers_deit_distilled", "deit", name, config, run, names, **options)


def hf_deit_distilled() -> Upstream:
    """The file of a model with both classifiers."""
    return _distilled("saved")


def hf_deit_distilled_modules() -> Upstream:
    """Its state_dict()."""
    return _distilled("modules")


def hf_deit_bare() -> Upstream:
    """A bare encoder's file, without classifiers."""
    return _distilled("saved", "DeiTModel", 0)


def _mae(names: str) -> Upstream:
    def unmasked(model: Any, image: Tensor) -> Tensor:
        in_order = torch.arange(16.0).expand(len(image), -1)
        return model.vit(image, noise=in_order).last_hidden_state[:, 0]

    decoder = {f"decoder_{option}": value for option, value in _SIZES.items()}
    config = {**_MLP, **decoder, "decoder_intermediate_size": 64, "mask_ratio": 0.0}
    return _upstream("transformers_vit_mae", "vit_mae", "ViTMAEForPreTraining", config, unmasked, names)


def hf_vit_mae() -> Upstream:
    """A whole pretraining model's file."""
    return _mae("saved")


def hf_vit_mae_modules() -> Upstream:
    """Its state_dict()."""
    return _mae("modules")


def _ijepa(names: str, name: str = "IJepaForImageClassification", classes: int = 5) -> Upstream:
    def mean_token(model: Any, image: Tensor) -> Tensor:
        return model(image).last_hidden_state.mean(dim=1)

    config = {**_MLP, "num_labels": classes, "layer_norm_eps": 1e-12}
    run = _logits if classes else mean_token
    options = {"class_token": False, "global_pool": "avg", "fc_norm": False, "num_classes": classes}
    return _upstream("transformers_ijepa", "ijepa", name, config, run, names, **options)


def hf_ijepa() -> Upstream:
    """A classifier's file."""
    return _ijepa("saved")


def hf_ijepa_modules() -> Upstream:
    """A classifier's state_dict()."""
    return _ijepa("modules")


def hf_ijepa_bare() -> Upstream:
    """A bare encoder's file."""
    return _ijepa("saved", "IJepaModel", 0)


# -- BEiT --------------------------------------------------------------------------------------------------------------


def _beit(names: str, tables: str, positions: bool = False, mean: bool = True, **more: Any) -> Upstream:
    config = {
        **_MLP,
        "num_labels": 5,
        "use_relative_position_bias": tables == "block",
        "use_shared_relative_position_bias": tables == "shared",
        "use_absolute_position_embeddings": positions,
        "use_mean_pooling": mean,
        "use_mask_token": True,
    }
    options = {
        "tables": tables,
        "pos_embed": "learn" if positions else "none",
        "global_pool": "avg" if mean else "token",
        "layer_scale": True,
        "num_classes": 5,
    }
    given = {"name": "BeitForImageClassification", "config": config, "run": _logits, **options}
    return _upstream("transformers_beit", "beit", names=names, **given | more)


def hf_beit() -> Upstream:
    """A classifier's file, with a table in each block."""
    return _beit("saved", "block")


def hf_beit_modules() -> Upstream:
    """Its state_dict()."""
    return _beit("modules", "block")


def hf_beit_shared() -> Upstream:
    """A classifier by the class token, with positions and one table for all blocks."""
    return _beit("saved", "shared", positions=True, mean=False)


def hf_beit_shared_modules() -> Upstream:
    """Its state_dict()."""
    return _beit("modules", "shared", positions=True, mean=False)


def hf_beit_bare() -> Upstream:
    """A bare encoder's file, with positions alone."""
    return _beit(
        "saved", "none", True, name="BeitModel", run=lambda model, image: model(image).pooler_output, num_classes=0
    )


# -- DINOv2 ------------------------------------------------------------------------------------------------------------


def _dinov2(names: str, registers: int = 0, swiglu: bool = False, name: str = "Model") -> Upstream:
    module, prefix = ("dinov2_with_registers", "Dinov2WithRegisters") if registers else ("dinov2", "Dinov2")
    family = "swiglu" if swiglu else "registers" if registers else ""
    config: dict[str, Any] = {
        "mlp_ratio": 4,
        "num_labels": 0,
        **({"num_register_tokens": registers} if registers else {}),
    }
    arch: dict[str, Any] = {"layer_scale": True, "reg_tokens": registers, "no_embed_class": registers > 0}
    if swiglu:  # 2/3 of the usual width for each half, rounded up to a multiple of 8
        config |= _SWIGLU
        arch |= {"swiglu": True, "mlp_ratio": 2 * 88 / 32}
    return _upstream(
        f"transformers_dinov2_{family}".rstrip("_"), module, prefix + name, config, _class_token, names, **arch
    )


def hf_dinov2() -> Upstream:
    """A bare encoder's file."""
    return _dinov2("saved")


def hf_dinov2_modules() -> Upstream:
    """The state_dict() of a model without classes."""
    return _dinov2("modules", name="ForImageClassification")


def hf_dinov2_registers() -> Upstream:
    """A bare encoder's file, with registers."""
    return _dinov2("saved", registers=4)


def hf_dinov2_registers_modules() -> Upstream:
    """The state_dict() of a model with registers and without classes."""
    return _dinov2("modules", registers=4, name="ForImageClassification")


def hf_dinov2_swiglu() -> Upstream:
    """The giant model's MLP in a file."""
    return _dinov2("saved", swiglu=True, name="ForImageClassification")


def hf_dinov2_swiglu_modules() -> Upstream:
    """The giant model's MLP in a state_dict()."""
    return _dinov2("modules", swiglu=True)


def hf_dinov2_swiglu_registers() -> Upstream:
    """The giant model's MLP, and registers, in a file."""
    return _dinov2("saved", registers=4, swiglu=True)


BUILDERS = (
    hf_vit,
    hf_vit_modules,
    hf_vit_wide,
    hf_vit_bare,
    hf_vit_bare_modules,
    hf_vit_masked,
    hf_deit,
    hf_deit_modules,
    hf_deit_distilled,
    hf_deit_distilled_modules,
    hf_deit_bare,
    hf_vit_mae,
    hf_vit_mae_modules,
    hf_ijepa,
    hf_ijepa_modules,
    hf_ijepa_bare,
    hf_beit,
    hf_beit_modules,
    hf_beit_shared,
    hf_beit_shared_modules,
    hf_beit_bare,
    hf_dinov2,
    hf_dinov2_modules,
    hf_dinov2_registers,
    hf_dinov2_registers_modules,
    hf_dinov2_swiglu,
    hf_dinov2_swiglu_modules,
    hf_dinov2_swiglu_registers,
)
