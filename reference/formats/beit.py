"""BEiT and BEiT v2: relative position biases instead of, or beside, absolute positions.

Source: ``microsoft/unilm`` ``beit/modeling_finetune.py`` (``beit2`` is the same). The bias table of each block, or the one
that all blocks share, has a row for every offset between two patches and three for the class token. A buffer stores which row
each pair of tokens reads; it follows from the window. Keys have no bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear, num_blocks, patchify, self_attention
from ..relative import attention_bias
from .rules import SAME, Drop, Format, StateDict

_EPS = 1e-6
_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"
_KERNEL = "patch_embed.proj.weight"
_SHARED = "rel_pos_bias."


def _bias(state: Mapping[str, Tensor], name: str, window: tuple[int, int]) -> Tensor | float:
    return attention_bias(state[name + _TABLE], window) if name + _TABLE in state else 0.0


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits ``(batch, num_classes)``, or pooled features where the checkpoint has no head."""
    kernel = state[_KERNEL]
    window = (image.shape[-2] // kernel.shape[-2], image.shape[-1] // kernel.shape[-1])
    x = patchify(image, kernel, state["patch_embed.proj.bias"])
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state.get("pos_embed", 0.0)
    shared = _bias(state, _SHARED, window)
    for i in range(num_blocks(state, "blocks.{i}.norm1.weight")):
        block = f"blocks.{i}."
        q_bias, v_bias = state[f"{block}attn.q_bias"], state[f"{block}attn.v_bias"]
        qkv = linear(layer_norm(x, state, f"{block}norm1", _EPS), state, f"{block}attn.qkv")
        qkv = qkv + torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        bias = shared + _bias(state, f"{block}attn.", window)
        attended = linear(self_attention(qkv, arch["num_heads"], bias), state, f"{block}attn.proj")
        x = x + state.get(f"{block}gamma_1", 1.0) * attended
        hidden = F.gelu(linear(layer_norm(x, state, f"{block}norm2", _EPS), state, f"{block}mlp.fc1"))
        x = x + state.get(f"{block}gamma_2", 1.0) * linear(hidden, state, f"{block}mlp.fc2")
    if "fc_norm.weight" in state:
        x = layer_norm(x[:, 1:].mean(dim=1), state, "fc_norm", _EPS)
    else:
        x = layer_norm(x[:, 0], state, "norm", _EPS)
    return linear(x, state, "head") if "head.weight" in state else x


def _index(out: StateDict, owner: str) -> Tensor | None:
    """The buffer of a table: the row that each pair of tokens reads. The window is the squarest with as many offsets."""
    table = out.get(owner + _TABLE)
    if table is None:
        return None
    offsets = len(table) - 3
    down = max(n for n in range(1, isqrt(offsets) + 1) if offsets % n == 0)
    window = ((down + 1) // 2, (offsets // down + 1) // 2)
    return attention_bias(torch.arange(len(table))[:, None], window)[0]


def _is_beit(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has biases of q and v, and tables or else layer scale, positions and a plain MLP."""
    if not {"cls_token", _KERNEL, "blocks.0.attn.qkv.weight", "blocks.0.attn.q_bias"} <= state.keys():
        return False
    tables = f"blocks.0.attn.{_TABLE}" in state or _SHARED + _TABLE in state
    return tables or {"blocks.0.gamma_1", "blocks.0.mlp.fc1.weight", "pos_embed"} <= state.keys()


BEIT = Format(
    name="beit",
    namespace="",
    rules=(
        Drop("blocks.{i}.attn." + _INDEX, partial(_index, owner="blocks.0.attn.")),
        Drop(_SHARED + _INDEX, partial(_index, owner=_SHARED)),
        # Parts of pre-training.
        Drop("mask_token"),
        Drop("lm_head.{p}"),
        SAME,
    ),
    evidence=_is_beit,
    forward=_forward,
)
