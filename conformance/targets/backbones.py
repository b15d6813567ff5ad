"""Patch embeddings with a convolutional stem for destination models, built from the target's own classes.

Families name these functions, and the loader calls them in a worker.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn


def resnet_embed(stages: int, units: int = 1, **kwargs: Any) -> nn.Module:
    """timm's ``HybridEmbed`` over a narrow ResNet.

    The ResNet is a root alone (``stages`` 0), or a root and stages of one bottleneck each, ``units`` in the first stage.
    """
    from timm.layers import StdConv2dSame
    from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
    from timm.models.vision_transformer_hybrid import HybridEmbed

    in_chans, conv_layer = kwargs.get("in_chans", 3), partial(StdConv2dSame, eps=1e-8)
    if not stages:
        root = create_resnetv2_stem(in_chans, stem_type="same", preact=False, conv_layer=conv_layer)
        return HybridEmbed(root, **kwargs)
    backbone = ResNetV2(
        layers=(units, *(1,) * (stages - 1)),
        channels=(128,) * stages,
        stem_chs=32,
        num_classes=0,
        global_pool="",
        in_chans=in_chans,
        preact=False,
        stem_type="same",
        conv_layer=conv_layer,
    )
    return HybridEmbed(backbone, **kwargs)


def mobileclip_embed(dim: int, **kwargs: Any) -> nn.Module:
    """timm's ``HybridEmbed`` over a narrow stem, padded as upstream pads it."""
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
