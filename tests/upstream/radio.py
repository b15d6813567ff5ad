"""RADIO: NVIDIA's patch generator over timm's blocks, as upstream builds its models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from timm_conformance.cases.case import Geometry, Size

from .model import PATCH4, TINY, Upstream, randomise, saved
from .packages import load, stub

_PACKAGE = "nvidia_tao_pytorch"
_BACKBONES = f"{_PACKAGE}.cv.backbone"


def _model(image: Size, largest: int, layer_scale: bool) -> nn.Module:
    """Three summary tokens and five registers; ``largest`` is the side in pixels that the position grid covers."""
    from timm.models.vision_transformer import VisionTransformer

    stub(f"{_PACKAGE}.core.distributed.comm", get_global_rank=lambda: 0)  # says which process may log
    packages = (f"{_PACKAGE}.cv", _BACKBONES, f"{_BACKBONES}.radio")
    enable_cpe = load(f"{_BACKBONES}.radio.c_radio", without_init=packages).enable_cpe
    model = VisionTransformer(
        img_size=image,
        patch_size=4,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=0,
        init_values=1e-5 if layer_scale else None,
    )
    model.norm = nn.Identity()
    enable_cpe(model, max_img_size=largest, num_cls_tokens=3, register_multiple=8)
    return randomise(model)


def _radio(largest: int, destination: Geometry, layer_scale: bool = False, **changes: Any) -> Upstream:
    model = _model(destination.img_size, largest, layer_scale)
    # The published files are Hugging Face's, which renames every "gamma" it meets.
    state = {k.replace(".gamma", ".grandma"): v for k, v in saved(model, "radio_model.model.").items()}
    beside = {
        "radio_model.input_conditioner.norm_mean": torch.full((3, 1, 1), 0.5),
        "radio_model.input_conditioner.norm_std": torch.full((3, 1, 1), 0.25),
        "radio_model.summary_idxs": torch.tensor([0, 1, 2]),
    }
    return Upstream(
        family="radio",
        origin="nvidia-tao-pytorch: nvidia_tao_pytorch/cv/backbone/radio/layers.py ViTPatchGenerator, c_radio.py enable_cpe",
        arch={
            **TINY,
            "reg_tokens": 7,  # timm keeps all but the first summary token among the registers
            "num_classes": 0,
            "no_embed_class": True,
            "final_norm": False,
            "layer_scale": layer_scale,
            "align_corners": True,
        },
        checkpoint=state | beside,
        run=lambda image: model.forward_features(image)[:, 0],
        source=Geometry((4, 4), (largest // 4, largest // 4)),
        destination=destination,
        positions="radio_model.model.patch_generator.pos_embed",
        **changes,
    )


def radio() -> Upstream:
    """A position grid as large as the image."""
    return _radio(16, PATCH4)


def radio_layer_scale() -> Upstream:
    """With layer scale, under the name it has in published files."""
    return _radio(16, PATCH4, layer_scale=True)


def radio_smaller() -> Upstream:
    """A larger grid, which upstream resizes in float32."""
    return _radio(32, PATCH4, precision=torch.float32)


def radio_window() -> Upstream:
    """A non-square image: a window of the resized grid."""
    return _radio(32, Geometry((4, 4), (3, 5)), precision=torch.float32)


def radio_larger() -> Upstream:
    """An image larger than the grid."""
    return _radio(16, Geometry((4, 4), (7, 5)), precision=torch.float32)


def radio_bare() -> Upstream:
    """The names that RADIO's authors save behind ``base_model.``, with layer scale as they call it."""
    made, prefix = _radio(16, PATCH4, layer_scale=True), "radio_model.model."
    state = {k.removeprefix(prefix): v for k, v in made.checkpoint.items() if k.startswith(prefix)}
    own = {k.replace(".grandma", ".gamma"): v for k, v in state.items()}
    return replace(made, family="radio_bare", checkpoint=own, positions="patch_generator.pos_embed")


BUILDERS = (radio, radio_layer_scale, radio_smaller, radio_window, radio_larger, radio_bare)
