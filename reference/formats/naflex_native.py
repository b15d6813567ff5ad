"""NaFlexViT's own layout: a VisionTransformer whose tokens, patch embedding and positions are under ``embeds``.

Source: ``huggingface/pytorch-image-models`` ``timm/models/naflexvit.py: NaFlexEmbeds``. Positions are a grid
``(1, h, w, embed_dim)`` and cover patches only. The patch embedding is a linear layer over patches flattened in the order
(row, column, channel), or (channel, row, column) where a model asks for it, or a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from ..errors import LoadError
from ..forward import linear
from .rules import SAME, Facts, Format, Rename
from .timm_native import encode_tokens

_EMBEDS = "embeds."
_KERNEL = "patch_embed.proj.weight"


def _patch(columns: int, facts: Facts) -> tuple[int, int, int]:
    """Height, width and channels of a patch, which its number of columns alone does not give.

    They are the model's patch size if it accounts for all columns, else a square; with the model's channels, else three.
    """
    chans = dict.fromkeys((facts.in_chans, 3))
    if facts.patch_size is not None:
        height, width = facts.patch_size
        for channels in chans:
            if height * width * channels == columns:
                return height, width, channels
    for channels in chans:
        side = isqrt(columns // channels)
        if side * side * channels == columns:
            return side, side, channels
    raise LoadError(f"embeds.proj.weight has {columns} columns: its patch size cannot be told")


def to_conv(weight: Tensor, facts: Facts) -> Tensor:
    """A linear kernel ``(embed_dim, columns)`` as ``(embed_dim, in_chans, h, w)``. A convolution's kernel stays as it is."""
    if weight.ndim == 4:
        return weight
    height, width, channels = _patch(weight.shape[1], facts)
    if not facts.channels_last:
        return weight.unflatten(1, (channels, height, width))
    return weight.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2).contiguous()


def to_linear(kernel: Tensor, facts: Facts) -> Tensor:
    """The inverse of :func:`to_conv`, for a model with a linear patch embedding."""
    return (kernel.permute(0, 2, 3, 1) if facts.channels_last else kernel).flatten(1)


def to_model(state: Mapping[str, Tensor], like: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
    """Convert VisionTransformer's names and layout to those of the NaFlexViT with the tensors ``like``."""
    out = NAFLEX_NATIVE.encode(state, facts)
    if like[_EMBEDS + "proj.weight"].ndim == 4:
        out[_EMBEDS + "proj.weight"] = state[_KERNEL]
    return out


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits ``(batch, num_classes)``, or pooled features without a head; ``arch["patch_size"]`` is the kernel's."""
    height, width = arch["patch_size"]
    patches = image.unfold(2, height, height).unfold(3, width, width).permute(0, 2, 3, 4, 5, 1)
    x = linear(patches.flatten(3).flatten(1, 2), state, _EMBEDS + "proj")
    tokens = {name: state[_EMBEDS + name] for name in ("cls_token", "reg_token") if _EMBEDS + name in state}
    position = state[_EMBEDS + "pos_embed"].flatten(1, 2)
    x = encode_tokens({**state, **tokens, "pos_embed": position}, x, {**arch, "no_embed_class": True})
    return linear(x, state, "head") if "head.weight" in state else x


NAFLEX_NATIVE = Format(
    name="naflex_native",
    namespace="",
    rules=(
        Rename(_EMBEDS + "proj.weight", _KERNEL, to_conv, to_linear),
        Rename(_EMBEDS + "proj.bias", "patch_embed.proj.bias"),
        Rename(_EMBEDS + "norm.{p}", "patch_embed.norm.{p}"),
        *(Rename(_EMBEDS + name, name) for name in ("cls_token", "reg_token", "pos_embed")),
        SAME,
    ),
    evidence=lambda state: _EMBEDS + "proj.weight" in state,
    forward=_forward,
)
