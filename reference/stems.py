"""The convolutional stem of a ResNet hybrid on plain tensors, with weight standardisation, GroupNorm and SAME padding.

Source: ``google-research/vision_transformer`` ``vit_jax/models_resnet.py`` and ``vit_jax/models_vit.py: VisionTransformer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_GROUPS = 32


@dataclass(frozen=True)
class Constants:
    """Constants against division by zero, which differ by framework.

    ``inside`` is added to a weight's variance, ``beside`` to its standard deviation. ``group_norm`` is GroupNorm's eps.
    """

    inside: float
    beside: float
    group_norm: float


UPSTREAM = Constants(inside=0.0, beside=1e-5, group_norm=1e-6)
# timm/models/vision_transformer_hybrid.py: _resnetv2, timm/layers/std_conv.py: StdConv2dSame.
TIMM = Constants(inside=1e-8, beside=0.0, group_norm=1e-5)


def same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """``x`` padded as by TensorFlow's SAME for ``kernel`` and ``stride``. An odd pixel goes below and to the right."""
    pads: list[int] = []
    for size in reversed(x.shape[-2:]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def features(
    image: Tensor,
    kernel: Callable[[str], Any],
    affine: Callable[[str], tuple[Tensor, Tensor]],
    units: Sequence[int],
    constants: Constants = UPSTREAM,
) -> Tensor:
    """Feature map ``(batch, channels, h, w)`` of a ResNet root and its stages of ``units`` bottlenecks.

    ``kernel(name)`` is a convolution's weight ``(out, in, h, w)`` or None, ``affine(name)`` a norm's scale and shift, by
    upstream's names: ``conv_root``, ``gn_root``, ``block1/unit1/conv1``, ``block1/unit1/gn_proj``.
    """

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = kernel(name)
        var, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (weight - mean) / ((var + constants.inside).sqrt() + constants.beside)
        return F.conv2d(same(x, weight.shape[-1], stride), weight, stride=stride)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, _GROUPS, *affine(name), constants.group_norm)

    x = F.relu(norm(conv(image, "conv_root", 2), "gn_root"))
    x = F.max_pool2d(same(x, 3, 2, value=float("-inf")), 3, 2)
    for stage, count in enumerate(units, 1):
        for unit in range(1, count + 1):
            name, stride = f"block{stage}/unit{unit}/", 2 if stage > 1 and unit == 1 else 1
            shortcut = x
            if kernel(f"{name}conv_proj") is not None:
                shortcut = norm(conv(x, f"{name}conv_proj", stride), f"{name}gn_proj")
            y = F.relu(norm(conv(x, f"{name}conv1"), f"{name}gn1"))
            y = F.relu(norm(conv(y, f"{name}conv2", stride), f"{name}gn2"))
            x = F.relu(norm(conv(y, f"{name}conv3"), f"{name}gn3") + shortcut)
    return x


def count_units(names: Mapping[str, Tensor], pattern: str) -> list[int]:
    """Number of units of each stage for which ``pattern``, with ``{stage}`` and ``{unit}`` from 1, names a tensor."""
    counts: list[int] = []
    while pattern.format(stage=len(counts) + 1, unit=1) in names:
        unit = 1
        while pattern.format(stage=len(counts) + 1, unit=unit + 1) in names:
            unit += 1
        counts.append(unit)
    return counts
