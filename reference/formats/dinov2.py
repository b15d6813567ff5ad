"""DINOv2 hub weights: plain, with register tokens, and with a SwiGLU MLP (with or without registers); TIPSv2.

Source: ``facebookresearch/dinov2`` ``dinov2/models/vision_transformer.py``, ``dinov2/layers/swiglu_ffn.py``. The
position embedding has a row for the class token but none for registers. timm's registers model adds no position to its
prefix tokens, so the class token's row is folded into the class token.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear, num_blocks, patchify, self_attention
from .rules import SAME, Drop, Facts, Fold, Format, Rename

_EPS = 1e-6


def fold_class_row(
    cls_token: Tensor, pos_embed: Tensor, registers: Tensor, facts: Facts
) -> tuple[Tensor, Tensor, Tensor]:
    """The class token with its position, the other positions, the registers."""
    if cls_token.shape != pos_embed[:, :1].shape:
        raise ValueError("a class token that broadcasts is none")
    return cls_token + pos_embed[:, :1], pos_embed[:, 1:], registers


def unfold_class_row(
    cls_token: Tensor, pos_embed: Tensor, registers: Tensor, facts: Facts
) -> tuple[Tensor, Tensor, Tensor]:
    """Split c into 2c and -c, whose sum is exactly c in binary floating point, up to half the largest number."""
    return 2 * cls_token, torch.cat([-cls_token, pos_embed], dim=1), registers


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Normalised class token ``(batch, embed_dim)``."""
    x = patchify(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"])
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state["pos_embed"]
    if "register_tokens" in state:
        x = torch.cat([x[:, :1], state["register_tokens"].expand(len(x), -1, -1), x[:, 1:]], dim=1)
    for i in range(num_blocks(state, "blocks.{i}.norm1.weight")):
        block = f"blocks.{i}."
        qkv = linear(layer_norm(x, state, f"{block}norm1", _EPS), state, f"{block}attn.qkv")
        attended = linear(self_attention(qkv, arch["num_heads"]), state, f"{block}attn.proj")
        x = x + state[f"{block}ls1.gamma"] * attended
        y = layer_norm(x, state, f"{block}norm2", _EPS)
        if f"{block}mlp.w12.weight" in state:
            gate, value = linear(y, state, f"{block}mlp.w12").chunk(2, dim=-1)
            y = linear(F.silu(gate) * value, state, f"{block}mlp.w3")
        else:
            y = linear(F.gelu(linear(y, state, f"{block}mlp.fc1")), state, f"{block}mlp.fc2")
        x = x + state[f"{block}ls2.gamma"] * y
    return layer_norm(x[:, 0], state, "norm", _EPS)


_MASK = Drop("mask_token", lambda out: torch.zeros_like(out["cls_token"][0]))
_REGISTERS = Fold(
    ("cls_token", "pos_embed", "register_tokens"),
    ("cls_token", "pos_embed", "reg_token"),
    fold_class_row,
    unfold_class_row,
)
_SWIGLU = (
    Rename("blocks.{i}.mlp.w12.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rename("blocks.{i}.mlp.w3.{p}", "blocks.{i}.mlp.fc2.{p}"),
)


def _kind(state: Mapping[str, Tensor]) -> str | None:
    others = {"decoder_pos_embed", "storage_tokens", "lm_head.weight"} & state.keys()  # MAE's, DINOv3's, EVA's
    if not {"mask_token", "cls_token", "patch_embed.proj.weight"} <= state.keys() or others:
        return None
    if "blocks.0.mlp.w12.weight" in state:
        return "dinov2_swiglu"
    return "dinov2_registers" if "register_tokens" in state else "dinov2"


DINOV2 = Format("dinov2", "", (_MASK, SAME), lambda state: _kind(state) == "dinov2", _forward)

DINOV2_REGISTERS = Format(
    "dinov2_registers", "", (_MASK, _REGISTERS, SAME), lambda state: _kind(state) == "dinov2_registers", _forward
)

DINOV2_SWIGLU = Format(
    "dinov2_swiglu",
    "",
    (_MASK, _REGISTERS, *_SWIGLU, SAME),
    lambda state: _kind(state) == "dinov2_swiglu",
    _forward,
)

# google-deepmind/tips pytorch/image_encoder.py: a DINOv2 encoder with one register token, beside a text encoder.
TIPSV2 = DINOV2_REGISTERS.prefixed("vision_encoder.", "tipsv2")
TIPSV2_SWIGLU = DINOV2_SWIGLU.prefixed("vision_encoder.", "tipsv2_swiglu")
