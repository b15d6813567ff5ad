"""Hugging Face transformers' towers: DINOv3, CLIP, SigLIP and SigLIP 2, in the names of their modules and of their files.

transformers is imported whole: its modules need its own ``__init__``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from timm_conformance.cases.case import Geometry

from .model import PATCH4, TINY, Upstream, randomise, saved
from .packages import load_whole

_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "patch_size": 4,
}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 11,
    "max_position_embeddings": 5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_CLIP, _SIGLIP, _SIGLIP2 = "modeling_clip.py", "modeling_siglip.py", "modeling_siglip2.py"


def _made(name: str, options: Mapping[str, Any], **more: Any) -> nn.Module:
    """The class ``name`` with random weights, from the configuration that its ``config_class`` makes of the options."""
    model = getattr(load_whole("transformers"), name)
    return randomise(model(model.config_class(**options, **more)))


def _file(model: Any) -> dict[str, Tensor]:
    """What ``save_pretrained`` writes of a model, read back."""
    with tempfile.TemporaryDirectory(prefix="timm-conformance-") as folder:
        model.float().save_pretrained(folder)
        model.double()
        return safetensors.torch.load_file(Path(folder) / "model.safetensors")


def _before_5(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of a tower's file from before 5.0, which transformers 5 renames when it reads them."""
    return {f"vision_model.{name}": tensor for name, tensor in state.items()}


# -- DINOv3 ------------------------------------------------------------------------------------------------------------


def _dinov3(family: str, checkpoint: Callable[[Any], Any], swiglu: bool = False, **options: Any) -> Upstream:
    model: Any = _made("DINOv3ViTModel", {**_VISION, "image_size": 16, "use_gated_mlp": swiglu, **options})
    model._init_weights(model.rope_embeddings)  # the frequencies are no weights
    bias = options.get("query_bias", True)
    arch = {
        **TINY,
        "num_classes": 0,
        "reg_tokens": options.get("num_register_tokens", 0),
        "global_pool": "token",
        "swiglu": "split" if swiglu else "",
        "qkv_bias": bias,
        "bias": "learnt" if bias else "none",
        "pos_embed": "none",
        "rope": "dinov3",
        "rope_half": True,
        "rope_temperature": 100,
        "dynamic_img_size": True,
        "fc_norm": False,
        "layer_scale": True,
    }
    return Upstream(
        family=family,
        origin="transformers: models/dinov3_vit/modeling_dinov3_vit.py DINOv3ViTModel",
        arch=arch,
        checkpoint=checkpoint(model),
        run=lambda image: model(image).pooler_output,
        precision=torch.float32,  # of the rotary angles
    )


def transformers_dinov3() -> Upstream:
    """The file of a model with four registers."""
    return _dinov3("transformers_dinov3", _file, num_register_tokens=4)


def transformers_dinov3_gated() -> Upstream:
    """The file of a model with a gated MLP and without biases of q and v, as the 7B model has neither."""
    return _dinov3(
        "transformers_dinov3",
        _file,
        swiglu=True,
        num_register_tokens=4,
        query_bias=False,
        value_bias=False,
        hidden_act="silu",
    )


def transformers_dinov3_module() -> Upstream:
    """A module's own names; no registers, of which it then holds an empty tensor."""
    return _dinov3("transformers_dinov3_module", saved)


# -- CLIP --------------------------------------------------------------------------------------------------------------


def _clip(
    family: str, name: str, model: Any, checkpoint: Any, run: Callable[[Tensor], Tensor], **arch: Any
) -> Upstream:
    return Upstream(
        family=family,
        origin=f"transformers: models/clip/{_CLIP} {name}",
        arch={**TINY, "num_classes": 0, "pre_norm": True, "act": "quick_gelu", **arch},
        checkpoint=checkpoint,
        run=run,
    )


def transformers_clip() -> Upstream:
    """The whole model's file."""
    model: Any = _made(
        "CLIPModel", {}, vision_config={**_VISION, "image_size": 16}, text_config=_TEXT, projection_dim=24
    )

    def run(image: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(image).pooler_output)

    return _clip("transformers_clip", "CLIPModel", model, _file(model), run, num_classes=24, head="projection")


def transformers_clip_projection() -> Upstream:
    """A tower with its projection, by its module's names."""
    name = "CLIPVisionModelWithProjection"
    model: Any = _made(name, {**_VISION, "image_size": 16}, projection_dim=24)
    arch = {"num_classes": 24, "head": "projection"}
    return _clip("transformers_clip", name, model, saved(model), lambda image: model(image).image_embeds, **arch)


def transformers_clip_classifier() -> Upstream:
    """A classifier's file. It holds a norm that is not used."""
    name = "CLIPForImageClassification"
    options = {"vision_config": {**_VISION, "image_size": 16, "hidden_act": "gelu"}, "text_config": _TEXT}
    model: Any = _made(name, options, num_labels=3)
    arch = {"num_classes": 3, "head": "classifier", "global_pool": "avg", "fc_norm": False, "final_norm": False}
    return _clip("transformers_clip", name, model, _file(model), lambda image: model(image).logits, act="gelu", **arch)


def transformers_clip_before_5() -> Upstream:
    """A tower's file with the prefix and the buffer that it had before."""
    model: Any = _made("CLIPVisionModel", {**_VISION, "image_size": 16})
    state = _before_5(saved(model)) | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    return _clip(
        "transformers_clip", "CLIPVisionModel", model, state, lambda image: model(image).pooler_output, head="none"
    )


def transformers_clip_bare() -> Upstream:
    """A tower's file as transformers 5 writes it: its module's names."""
    model: Any = _made("CLIPVisionModel", {**_VISION, "image_size": 16})
    return _clip(
        "transformers_clip_bare", "CLIPVisionModel", model, _file(model), lambda image: model(image).pooler_output
    )


# -- SigLIP ------------------------------------------------------------------------------------------------------------

_HEADS: dict[str, dict[str, Any]] = {
    "attention": {"global_pool": "map", "head": "attention"},
    "none": {"global_pool": "avg", "fc_norm": False, "head": "none"},
    "classifier": {"global_pool": "avg", "fc_norm": False, "head": "classifier"},
}


def _siglip(
    family: str, name: str, head: str, checkpoint: Any, run: Callable[[Tensor], Tensor], **arch: Any
) -> Upstream:
    number, file = ("2", _SIGLIP2) if "siglip2" in family else ("", _SIGLIP)
    return Upstream(
        family=family,
        origin=f"transformers: models/siglip{number}/{file} {name}",
        arch={**TINY, "num_classes": 0, "class_token": False, "act": "gelu_tanh", **_HEADS[head], **arch},
        checkpoint=checkpoint,
        run=run,
    )


def transformers_siglip() -> Upstream:
    """The whole model's file. SigLIP 2 of a fixed resolution is the same class."""
    model: Any = _made("SiglipModel", {}, vision_config={**_VISION, "image_size": 16}, text_config=_TEXT)

    def run(image: Tensor) -> Tensor:
        return model.vision_model(image).pooler_output

    return _siglip("transformers_siglip", "SiglipModel", "attention", _file(model), run)


def _siglip_classifier(**options: Any) -> Upstream:
    name = "SiglipForImageClassification"
    vision = {**_VISION, "image_size": 16, **options}
    model: Any = _made(name, {"vision_config": vision, "text_config": _TEXT}, num_labels=3)
    return _siglip(
        "transformers_siglip", name, "classifier", _file(model), lambda image: model(image).logits, num_classes=3
    )


def transformers_siglip_classifier() -> Upstream:
    """A classifier's file. It holds a head that is not used."""
    return _siglip_classifier()


def transformers_siglip_before_5() -> Upstream:
    """A tower's file with the prefix that it had before."""
    model: Any = _made("SiglipVisionModel", {**_VISION, "image_size": 16})
    state = _before_5(saved(model))
    return _siglip(
        "transformers_siglip", "SiglipVisionModel", "attention", state, lambda image: model(image).pooler_output
    )


def transformers_siglip_bare() -> Upstream:
    """A tower's file as transformers 5 writes it: its module's names."""
    model: Any = _made("SiglipVisionModel", {**_VISION, "image_size": 16})
    return _siglip(
        "transformers_siglip_bare",
        "SiglipVisionModel",
        "attention",
        _file(model),
        lambda image: model(image).pooler_output,
    )


def transformers_siglip_without_head() -> Upstream:
    """A tower without its head, whose patches are averaged here."""
    model: Any = _made("SiglipVisionModel", {**_VISION, "image_size": 16}, vision_use_head=False)
    return _siglip(
        "transformers_siglip_bare",
        "SiglipVisionModel",
        "none",
        saved(model),
        lambda image: model(image).last_hidden_state.mean(dim=1),
    )


def _patches(image: Tensor) -> dict[str, Tensor]:
    """What SigLIP 2's own processor makes of images: flattened patches, their mask and grid."""
    convert = load_whole("transformers.models.siglip2.image_processing_siglip2").convert_image_to_patches
    patches = torch.stack([convert(one, 4) for one in image])
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int32),
        "spatial_shapes": torch.tensor([[image.shape[2] // 4, image.shape[3] // 4]] * len(image)),
    }


def transformers_siglip2() -> Upstream:
    """A classifier's file, whose head is not used."""
    name = "Siglip2ForImageClassification"
    model: Any = _made(name, {"vision_config": {**_VISION, "num_patches": 16}, "text_config": _TEXT}, num_labels=3)
    return _siglip(
        "transformers_siglip2",
        name,
        "classifier",
        _file(model),
        lambda image: model(**_patches(image)).logits,
        num_classes=3,
    )


def transformers_siglip2_bare() -> Upstream:
    """A tower's file."""
    model: Any = _made("Siglip2VisionModel", {**_VISION, "num_patches": 16})
    return _siglip(
        "transformers_siglip2_bare",
        "Siglip2VisionModel",
        "attention",
        _file(model),
        lambda image: model(**_patches(image)).pooler_output,
    )


def transformers_siglip2_other_size() -> Upstream:
    """Images of 3 by 5 patches, for which upstream resizes the positions in float32."""
    model: Any = _made("Siglip2VisionModel", {**_VISION, "num_patches": 16})
    made = _siglip(
        "transformers_siglip2_bare",
        "Siglip2VisionModel",
        "attention",
        saved(model),
        lambda image: model(**_patches(image)).pooler_output,
    )
    return replace(made, source=PATCH4, destination=Geometry((4, 4), (3, 5)), precision=torch.float32)


BUILDERS = (
    transformers_dinov3,
    transformers_dinov3_gated,
    transformers_dinov3_module,
    transformers_clip,
    transformers_clip_projection,
    transformers_clip_classifier,
    transformers_clip_before_5,
    transformers_clip_bare,
    transformers_siglip,
    transformers_siglip_classifier,
    transformers_siglip_before_5,
    transformers_siglip_bare,
    transformers_siglip_without_head,
    transformers_siglip2,
    transformers_siglip2_bare,
    transformers_siglip2_other_size,
)
