"""Patch embeddings of destination models behind a convolutional stem, of the target's own classes.

Families name these functions and the loader calls them, inside a worker: nothing else may import timm.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn


def resnet_embed(stages: int, units: int = 1, **kwargs: Any) -> nn.Module:
    """timm's ``HybridEmbed`` over a ResNet of our width: a root alone, or with a bottleneck a stage, ``units`` in the first."""
    from timm.layers import StdConv2dSame
    from timm.models.resnetv2 import ResNetV2
    from timm.models.vision_transformer_hybrid import HybridEmbed, _resnetv2

    in_chans = kwargs.get("in_chans", 3)
    if not stages:
        return HybridEmbed(_resnetv2((), in_chans=in_chans), **kwargs)
    backbone = ResNetV2(
        layers=(units, *(1,) * (stages - 1)),
        channels=(128,) * stages,
        stem_chs=32,
        num_classes=0,
        global_pool="",
        in_chans=in_chans,
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
    )
    return HybridEmbed(backbone, **kwargs)


def mobileclip_embed(dim: int, **kwargs: Any) -> nn.Module:
    """timm's ``HybridEmbed`` over a stem of our width, padded as upstream pads it."""
    from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed

    stem = ConvStem(
        channels=(dim // 4, dim // 4, dim),
        stride=(4, 2, 2),
        kernel_size=(4, 2, 2),
        padding=(1, 0, 0),
        in_chans=kwargs.get("in_chans", 3),
        act_layer=nn.GELU,
    )
    return HybridEmbed(stem, proj=False, **kwargs)
