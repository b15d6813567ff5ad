"""RADIO and C-RADIO: a linear patch embedding, and a large square of positions of which a model reads a window.

Sources: ``NVlabs/RADIO`` ``radio/vit_patch_generator.py``, ``radio/enable_cpe_support.py``, ``radio/radio_model.py``. One
parameter holds a class token for each teacher, then registers. Positions are resized bilinearly, with or without aligned
corners depending on the model. Upstream interpolates the patch kernel like an image (``_load_projection``). This project
PI-resizes it, as for every other format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..resize import BILINEAR
from .rules import Drop, Facts, Fill, Fold, Format, Rename, batch, unbatch
from .timm_native import encode_tokens, to_conv, to_linear

_MODEL = "radio_model.model."
_PATCH = "patch_generator."
_TOKENS = _PATCH + "cls_token.token"


def _square(weight: Tensor, facts: Facts) -> Tensor:
    """A linear kernel as a convolution's. Upstream patches are square."""
    return to_conv(weight, replace(facts, patch_size=None))


def _split(tokens: Tensor, facts: Facts) -> tuple[Tensor, Tensor]:
    return tokens[None, :1], tokens[None, 1:]


def _join(cls_token: Tensor, reg_token: Tensor, facts: Facts) -> tuple[Tensor]:
    return (torch.cat([cls_token[0], reg_token[0]]),)


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """The first summary token ``(batch, embed_dim)`` of a normalised image. RADIO has no final norm."""
    patch = arch["patch_size"]
    cut = image.unfold(2, patch[0], patch[0]).unfold(3, patch[1], patch[1])
    pixels = cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = pixels @ state[f"{_PATCH}embedder.weight"].T + state[f"{_PATCH}pos_embed"]
    blocks = {k.replace(".grandma", ".gamma"): v for k, v in state.items() if k.startswith("blocks.")}
    return encode_tokens({**blocks, "cls_token": state[_TOKENS][None]}, x, arch)


# The names inside NVlabs' own .pth.tar: its hub code takes them from behind "base_model.".
RADIO_BARE = Format(
    name="radio_bare",
    namespace="",
    rules=(
        Rename(_PATCH + "embedder.weight", "patch_embed.proj.weight", _square, to_linear),
        Rename(_PATCH + "embedder.bias", "patch_embed.proj.bias"),
        Fill("patch_embed.proj.bias", like="patch_embed.proj.weight"),
        Rename(_PATCH + "pos_embed", "pos_embed"),
        Fold((_TOKENS,), ("cls_token", "reg_token"), _split, _join),
        Rename(_TOKENS, "cls_token", batch, unbatch),
        Rename("blocks.{i}.{rest}", "blocks.{i}.{rest}"),
        Drop("norm.{p}"),
    ),
    evidence=lambda state: _PATCH + "embedder.weight" in state,
    forward=_forward,
    resampling=BILINEAR,
    windowed=True,
)
RADIO = RADIO_BARE.prefixed(_MODEL, "radio")
# Hugging Face renames every "gamma", so the published files have "grandma".
_GRANDMA = Rename(_MODEL + "blocks.{i}.ls{n}.grandma", "blocks.{i}.ls{n}.gamma")
RADIO = replace(RADIO, rules=(_GRANDMA, *RADIO.rules))
