"""Sapiens2: DINOv3's tokens and rotary positions, with grouped queries, RMSNorm and a layer scale inside attention.

Source: ``facebookresearch/sapiens2`` ``sapiens/backbones/standalone/sapiens2.py``. Queries and keys are normalised head by head
before they are rotated. Each head of keys and values serves several consecutive query heads. The MLP is SwiGLU with both
halves in one projection, the gate first, and has no layer scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from ..forward import linear, num_blocks, rms_norm
from ..rope import attend_rotated, rotate_halves
from .dinov3 import STORAGE_TOKENS, embedded, pooled
from .rules import SAME, Format, Rename

_EPS = 1e-6


def _heads(x: Tensor, state: Mapping[str, Tensor], name: str, head_dim: int) -> Tensor:
    """A projection of ``x``, head by head: ``(batch, heads, tokens, head_dim)``."""
    return linear(x, state, name).unflatten(-1, (-1, head_dim)).transpose(1, 2)


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Normalised class token ``(batch, embed_dim)``, or the mean of the normalised patch tokens."""
    x, angles = embedded(state, image, "patch_embed.projection", arch["num_heads"])
    head_dim = x.shape[-1] // arch["num_heads"]
    for i in range(num_blocks(state, "blocks.{i}.ln1.weight")):
        block = f"blocks.{i}."
        y = rms_norm(x, state, f"{block}ln1", _EPS)
        q, k, v = (_heads(y, state, f"{block}attn.w{name}", head_dim) for name in "qkv")
        q, k = rms_norm(q, state, f"{block}attn.q_norm", _EPS), rms_norm(k, state, f"{block}attn.k_norm", _EPS)
        attended = linear(attend_rotated(q, k, v, angles, rotate_halves), state, f"{block}attn.proj")
        x = x + state[f"{block}attn.gamma.weight"] * attended
        gate, value = linear(rms_norm(x, state, f"{block}ln2", _EPS), state, f"{block}ffn.w12").chunk(2, dim=-1)
        x = x + linear(F.silu(gate) * value, state, f"{block}ffn.w3")
    return pooled(rms_norm(x, state, "ln1", _EPS), angles, arch)


SAPIENS2 = Format(
    name="sapiens2",
    namespace="",
    rules=(
        *STORAGE_TOKENS,
        Rename("patch_embed.projection.{p}", "patch_embed.proj.{p}"),
        Rename("blocks.{i}.ln{n}.weight", "blocks.{i}.norm{n}.weight"),
        Rename("blocks.{i}.attn.wq.{p}", "blocks.{i}.attn.q_proj.{p}"),
        Rename("blocks.{i}.attn.wk.{p}", "blocks.{i}.attn.k_proj.{p}"),
        Rename("blocks.{i}.attn.wv.{p}", "blocks.{i}.attn.v_proj.{p}"),
        Rename("blocks.{i}.attn.gamma.weight", "blocks.{i}.gamma_1"),
        Rename("blocks.{i}.ffn.w12.{p}", "blocks.{i}.mlp.fc1.{p}"),
        Rename("blocks.{i}.ffn.w3.{p}", "blocks.{i}.mlp.fc2.{p}"),
        Rename("ln1.weight", "norm.weight"),
        SAME,
    ),
    evidence=lambda state: {"blocks.0.attn.wq.weight", "blocks.0.ffn.w12.weight"} <= state.keys(),
    forward=_forward,
)
