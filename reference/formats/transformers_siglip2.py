"""Hugging Face transformers' SigLIP 2 of any resolution (NaFlex): a linear patch embedding, positions on a square grid.

Source: ``huggingface/transformers`` ``src/transformers/models/siglip2/modeling_siglip2.py``,
``image_processing_siglip2.py: convert_image_to_patches`` (patches are flattened in the order row, column, channel). The rest of
the tower is SigLIP's. Patches are square. The positions are those of no image: the model resizes the square to each image's
grid, bilinear with antialias. SigLIP 2's files of a fixed resolution have SigLIP's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor

from ..embeddings import resample_position_grid
from ..errors import LoadError
from ..resize import Resampling
from .rules import Facts, Format, Rename
from .transformers_siglip import KERNEL, POSITIONS, is_tower, pooled, tower

_RESAMPLING = Resampling("bilinear", antialias=True)


def _forward(prefix: str, state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """The pooled image ``(batch, embed_dim)``, or logits ``(batch, num_classes)``; the image may have any grid."""
    weight, channels = state[f"{prefix}{KERNEL}.weight"], image.shape[1]
    patch = isqrt(weight.shape[1] // channels)
    patches = image.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 4, 5, 1)
    x = patches.flatten(1, 2).flatten(2) @ weight.T + state[f"{prefix}{KERNEL}.bias"]
    positions, grid = state[prefix + POSITIONS][None], (patches.shape[1], patches.shape[2])
    side = isqrt(positions.shape[1])
    return pooled(x + resample_position_grid(positions, (side, side), grid, 0, _RESAMPLING), state, prefix, arch)


def _to_conv(weight: Tensor, facts: Facts) -> Tensor:
    """Linear kernel ``(embed_dim, h * w * channels)`` of square patches to ``(embed_dim, channels, h, w)``.

    The channels are three, as in all such checkpoints, else the model's number.
    """
    for channels in (3, facts.in_chans):
        pixels, rest = divmod(weight.shape[1], channels)
        side = isqrt(pixels)
        if not rest and side and side * side == pixels:
            return weight.unflatten(1, (side, side, channels)).permute(0, 3, 1, 2).contiguous()
    raise LoadError(
        f"a linear patch embedding with {weight.shape[1]} columns is no square patch of {facts.in_chans} channels"
    )


def _to_linear(weight: Tensor, facts: Facts) -> Tensor:
    return torch.flatten(weight.permute(0, 2, 3, 1), 1)


def _format(name: str, prefix: str) -> Format:
    return Format(
        name=name,
        namespace="",
        rules=(Rename(f"{prefix}{KERNEL}.weight", "patch_embed.proj.weight", _to_conv, _to_linear), *tower(prefix)),
        evidence=lambda state: is_tower(state, prefix, 2),
        forward=lambda state, image, arch: _forward(prefix, state, image, arch),
        resampling=_RESAMPLING,
        square_grid=True,
    )


TRANSFORMERS_SIGLIP2 = _format("transformers_siglip2", "vision_model.")
TRANSFORMERS_SIGLIP2_BARE = _format("transformers_siglip2_bare", "")
