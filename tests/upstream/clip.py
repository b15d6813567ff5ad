"""CLIP image towers: OpenAI's own model, open_clip's native ones, and open_clip's with a timm trunk (SigLIP)."""

from __future__ import annotations

from typing import Any

import torch

from .model import TINY, Upstream, randomise, saved
from .packages import load

_TEXT = {"context_length": 5, "vocab_size": 11, "width": 16, "heads": 2, "layers": 1}
_TRUNK = "tests_upstream_siglip"


def openai_clip() -> Upstream:
    """OpenAI's model, whose norms always compute in float32. A head is 64 wide there."""
    model = load("clip.model").CLIP(
        embed_dim=24,
        image_resolution=16,
        vision_layers=2,
        vision_width=128,
        vision_patch_size=4,
        context_length=5,
        vocab_size=11,
        transformer_width=16,
        transformer_heads=2,
        transformer_layers=1,
    )
    randomise(model, torch.float32)
    return Upstream(
        family="openai_clip",
        origin="clip-openai: clip/model.py CLIP",
        arch={**TINY, "embed_dim": 128, "num_classes": 24, "pre_norm": True, "act": "quick_gelu"},
        checkpoint=saved(model),
        run=lambda image: model.encode_image(image.float()),
        precision=torch.float32,
    )


def _open_clip(quick_gelu: bool, options: dict[str, Any] | None = None, **changes: Any) -> Upstream:
    """A tower of open_clip; ``options`` are those of its ``CLIPVisionCfg``."""
    import open_clip

    vision = {"image_size": 16, "patch_size": 4, "width": 32, "layers": 2, "head_width": 16, **(options or {})}
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=_TEXT, quick_gelu=quick_gelu)
    randomise(model)
    made: dict[str, Any] = {
        "family": "openai_clip",
        "origin": "open_clip_torch: open_clip/model.py CLIP, open_clip/transformer.py VisionTransformer",
        "arch": {**TINY, "num_classes": 24, "pre_norm": True, "act": "quick_gelu" if quick_gelu else "gelu"},
        "checkpoint": {"state_dict": saved(model), "epoch": 1, "name": "tiny"},
        "run": model.encode_image,
    }
    ddp = changes.get("family", "").endswith("_ddp")
    if ddp:  # as open_clip_train saves a model wrapped by DistributedDataParallel
        made["checkpoint"] = {"state_dict": saved(model, "module."), "epoch": 1, "name": "tiny"}
    return Upstream(**made | changes)


def open_clip() -> Upstream:
    """open_clip's native tower with the exact GELU."""
    return _open_clip(quick_gelu=False)


def open_clip_quick_gelu() -> Upstream:
    """open_clip's native tower as it reloads OpenAI's weights."""
    return _open_clip(quick_gelu=True)


def open_clip_ddp() -> Upstream:
    """A training checkpoint of several processes."""
    return _open_clip(quick_gelu=False, family="openai_clip_ddp")


def open_clip_clipa() -> Upstream:
    """A tower as CLIPA's: no norm before the blocks, the mean of the patches, the last norm after it."""
    options = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    return _tower(options, pre_norm=False, layer_scale=False, global_pool="avg", fc_norm=True)


def open_clip_layer_scale() -> Upstream:
    """A tower with layer scale."""
    return _tower({"ls_init_value": 1e-4}, pre_norm=True, layer_scale=True, global_pool="token", fc_norm=False)


def open_clip_norm_before_mean() -> Upstream:
    """A tower without a norm before the blocks that takes the mean of the patches after its last norm."""
    options = {"no_ln_pre": True, "ls_init_value": 1e-4, "pool_type": "avg"}
    return _tower(options, pre_norm=False, layer_scale=True, global_pool="avg", fc_norm=False)


def _tower(options: dict[str, Any], **arch: Any) -> Upstream:
    own = {**TINY, "num_classes": 24, "act": "gelu", **arch}
    known = "openclip-tower-options-refused"
    return _open_clip(quick_gelu=False, options=options, family="openclip_tower", arch=own, known=known)


def siglip_model(embed_dim: int, proj: str, bias: bool = False, text_width: int = 16) -> torch.nn.Module:
    """open_clip's model with a tiny timm trunk and a MAP head, as its SigLIP configurations have it."""
    import open_clip

    _register_trunk()
    vision = {"image_size": 16, "timm_model_name": _TRUNK, "timm_model_pretrained": False, "timm_pool": "map"}
    vision |= {"timm_proj": proj, "timm_proj_bias": bias}
    text = {**_TEXT, "width": text_width, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    text |= {"norm_kwargs": {"eps": 1e-6}}
    return open_clip.CustomTextCLIP(embed_dim, vision, text, init_logit_bias=-10)


def _register_trunk() -> None:
    """A tiny SigLIP image tower in timm's registry: open_clip builds its trunk by name."""
    from timm.models import is_model, register_model
    from timm.models.vision_transformer import VisionTransformer

    def build(pretrained: bool = False, num_classes: int = 0, **given: Any) -> torch.nn.Module:
        options = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "map"}
        options |= {"class_token": False, "act_layer": "gelu_tanh", "num_classes": num_classes}
        known = {k: v for k, v in given.items() if k in options}
        model = VisionTransformer(**options | known)
        model.default_cfg = model.pretrained_cfg = {"input_size": (3, 16, 16)}
        return model

    if not is_model(_TRUNK):
        build.__name__, build.__module__ = _TRUNK, VisionTransformer.__module__
        register_model(build)


def _trunk(head: str, **changes: Any) -> Upstream:
    width = 32 if head == "none" else 24
    model = randomise(siglip_model(width, "none" if head == "none" else "linear", head == "proj+bias"))
    ddp = changes.get("family", "").endswith("_ddp")
    made: dict[str, Any] = {
        "family": "openclip_trunk",
        "origin": "open_clip_torch: open_clip/model.py CustomTextCLIP, open_clip/timm_model.py TimmModel",
        "arch": {
            **TINY,
            "class_token": False,
            "global_pool": "map",
            "act": "gelu_tanh",
            "head": head,
            "num_classes": 0 if head == "none" else width,
        },
        "checkpoint": {"state_dict": saved(model, "module." if ddp else "")},
        "run": model.encode_image,
    }
    return Upstream(**made | changes)


def siglip() -> Upstream:
    """No projection: the MAP head's output is the embedding."""
    return _trunk("none")


def trunk_projection() -> Upstream:
    """A projection without bias after the trunk."""
    return _trunk("proj")


def trunk_projection_bias() -> Upstream:
    """A projection with a bias, which timm drops."""
    return _trunk("proj+bias", known="trunk-projection-bias-dropped")


def siglip_ddp() -> Upstream:
    """A training checkpoint of several processes."""
    return _trunk("none", family="openclip_trunk_ddp")


def trunk_projection_ddp() -> Upstream:
    """A training checkpoint of several processes with a projection, which timm drops."""
    return _trunk("proj", family="openclip_trunk_ddp", known="ddp-trunk-projection-missing")


BUILDERS = (
    openai_clip,
    open_clip,
    open_clip_quick_gelu,
    open_clip_ddp,
    open_clip_clipa,
    open_clip_layer_scale,
    open_clip_norm_before_mean,
    siglip,
    siglip_ddp,
    trunk_projection,
    trunk_projection_bias,
    trunk_projection_ddp,
)
