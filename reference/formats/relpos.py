"""timm's VisionTransformerRelPos: biases by the offset between two tokens, from a table or from a small network.

Source: ``huggingface/pytorch-image-models`` ``timm/models/vision_transformer_relpos.py``, ``timm/layers/pos_embed_rel.py``.
Each block has its own biases, or all blocks share one. In residual-post-norm blocks, the norm follows its branch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear, num_blocks, patchify, self_attention
from ..relative import attention_bias
from .rules import SAME, Format

_EPS = 1e-6
_KERNEL = "patch_embed.proj.weight"
_TABLE = "relative_position_bias_table"
_SHARED = "shared_rel_pos."
_OWN = "blocks.{i}.attn.rel_pos."


def _bias(state: Mapping[str, Tensor], name: str, window: tuple[int, int], prefix: int) -> Tensor:
    """Biases ``(num_heads, n, n)`` from the tensors under ``name``. Those of a network are zero for the class token."""
    if name + _TABLE in state:
        return attention_bias(state[name + _TABLE], window)
    # The model keeps these coordinates in float32.
    sides = (torch.arange(1 - n, n, dtype=torch.float32) for n in window)
    away = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)
    coords = (away.sign() * torch.log(1.0 + away.abs())).to(state[f"{name}mlp.fc1.weight"])
    table = linear(F.relu(linear(coords, state, f"{name}mlp.fc1")), state, f"{name}mlp.fc2").flatten(0, 1)
    return F.pad(attention_bias(table, window), (prefix, 0, prefix, 0))


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits ``(batch, num_classes)``, or pooled features where the checkpoint has no head."""
    kernel = state[_KERNEL]
    window = (image.shape[-2] // kernel.shape[-2], image.shape[-1] // kernel.shape[-1])
    x = patchify(image, kernel, state["patch_embed.proj.bias"])
    prefix = int("cls_token" in state)
    if prefix:
        x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1)
    shared = any(key.startswith(_SHARED) for key in state)
    for i in range(num_blocks(state, "blocks.{i}.norm1.weight")):
        block = f"blocks.{i}."
        bias = _bias(state, _SHARED if shared else _OWN.format(i=i), window, prefix)
        for n in (1, 2):
            norm = f"{block}norm{n}"
            y = x if arch["post_norm"] else layer_norm(x, state, norm, _EPS)
            if n == 1:
                qkv = linear(y, state, f"{block}attn.qkv")
                y = linear(self_attention(qkv, arch["num_heads"], bias), state, f"{block}attn.proj")
            else:
                y = linear(F.gelu(linear(y, state, f"{block}mlp.fc1")), state, f"{block}mlp.fc2")
            y = layer_norm(y, state, norm, _EPS) if arch["post_norm"] else y
            x = x + state.get(f"{block}ls{n}.gamma", 1.0) * y
    if "norm.weight" in state:
        x = layer_norm(x, state, "norm", _EPS)
    x = x[:, 0] if arch["global_pool"] == "token" else x[:, prefix:].mean(dim=1)
    if "fc_norm.weight" in state:
        x = layer_norm(x, state, "fc_norm", _EPS)
    return linear(x, state, "head") if "head.weight" in state else x


def _is_relpos(state: Mapping[str, Tensor]) -> bool:
    return _KERNEL in state and any(key.startswith((_SHARED, _OWN.format(i=0))) for key in state)


RELPOS = Format("relpos", "", (SAME,), _is_relpos, _forward)
