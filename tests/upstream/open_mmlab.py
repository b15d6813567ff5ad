"""OpenMMLab's VisionTransformer, with the head of a classifier or alone.

mmengine and mmcv are imported as they are. What only their configuration files, logs and pictures need is stubbed.
"""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

from torch import Tensor, nn

from .model import TINY, Upstream, randomise, saved
from .packages import load, stub, unpacked

_MODELS = "mmpretrain.models"
_UTILS = f"{_MODELS}.utils"
_FOLDERS = (_MODELS, _UTILS, f"{_MODELS}.backbones", f"{_MODELS}.heads")
# What the backbone takes from the package of utilities, whose own imports need much more.
_USED = {
    "attention": "MultiheadAttention",
    "embed": "resize_pos_embed",
    "helpers": "to_2tuple",
    "norm": "build_norm_layer",
    "swiglu_ffn": "SwiGLUFFNFused",
}


def _module(name: str) -> types.ModuleType:
    return load(f"{_MODELS}.{name}", without_init=_FOLDERS)


def _imported() -> tuple[Any, Any]:
    """The classes of backbone and head."""
    for name in ("yapf", "yapf.yapflib", "cv2"):
        stub(name)
    stub("yapf.yapflib.yapf_api", FormatCode=None)
    stub("termcolor", colored=lambda text, *colour, **more: text)
    if str(unpacked()) not in sys.path:
        sys.path.append(str(unpacked()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # mmcv-lite's, about the operators that it lacks
        from mmengine.model import BaseModule

        load("mmcv.cnn.bricks.transformer")
        parts = {name: _module(f"utils.{name}") for name in _USED}
    vars(sys.modules[_UTILS]).update({name: getattr(parts[part], name) for part, name in _USED.items()})
    backbone = _module("backbones.vision_transformer").VisionTransformer
    stub(f"{_MODELS}.heads.cls_head", ClsHead=BaseModule)  # losses and metrics
    return backbone, _module("heads.vision_transformer_head").VisionTransformerClsHead


def _mmlab(
    family: str, *, num_classes: int = 0, prefix: str = "backbone.", arch: Any = None, **options: Any
) -> Upstream:
    sizes = {"embed_dims": 32, "num_layers": 2, "num_heads": 2, "feedforward_channels": 128}
    backbone_class, head_class = _imported()
    backbone = backbone_class(arch=sizes, img_size=16, patch_size=4, **options)
    parts = {"backbone": backbone} | ({"head": head_class(num_classes, 32)} if num_classes else {})
    model: Any = randomise(nn.ModuleDict(parts))

    def run(image: Tensor) -> Tensor:
        features = model["backbone"](image)
        return model["head"](features) if num_classes else features[-1]

    state = {
        prefix + name.removeprefix("backbone.") if name.startswith("backbone.") else name: v
        for name, v in saved(model).items()
    }
    return Upstream(
        family=family,
        origin="mmpretrain: mmpretrain/models/backbones/vision_transformer.py VisionTransformer, over mmcv-lite's FFN",
        arch={
            **TINY,
            "num_classes": num_classes,
            "global_pool": "token",
            "fc_norm": False,
            "pre_norm": False,
            "layer_scale": False,
            "qkv_bias": True,
            **(arch or {}),
        },
        checkpoint={"meta": {"epoch": 1}, "state_dict": state},
        run=run,
    )


def open_mmlab() -> Upstream:
    """A classifier of the class token."""
    return _mmlab("open_mmlab", num_classes=5)


def open_mmlab_average() -> Upstream:
    """A classifier of the patches' mean, normalised, without class token, with layer scale and a norm before the blocks."""
    return _mmlab(
        "open_mmlab",
        num_classes=5,
        arch={
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": True,
            "pre_norm": True,
            "layer_scale": True,
            "qkv_bias": False,
        },
        out_type="avg_featmap",
        final_norm=False,
        with_cls_token=False,
        pre_norm=True,
        qkv_bias=False,
        layer_scale_init_value=1e-5,
    )


def open_mmlab_swiglu() -> Upstream:
    """DINOv2's giant model: 2/3 of the usual width for each half, rounded up to a multiple of 8."""
    return _mmlab(
        "open_mmlab_swiglu",
        arch={"layer_scale": True, "swiglu": True, "mlp_ratio": 2 * 88 / 32},
        layer_scale_init_value=1e-5,
        layer_cfgs={"ffn_type": "swiglu_fused"},
    )


def open_mmlab_backbone() -> Upstream:
    """A backbone alone."""
    return _mmlab("open_mmlab_backbone", prefix="")


BUILDERS = (open_mmlab, open_mmlab_average, open_mmlab_swiglu, open_mmlab_backbone)
