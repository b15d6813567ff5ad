"""Perception Encoder: PE-Core's image tower (``visual.``), and PE-Lang and PE-Spatial, which are bare.

Source: ``facebookresearch/perception_models`` ``core/vision_encoder/pe.py`` (``VisionTransformer``, ``AttentionPooling``) and
``core/vision_encoder/rope.py``. The names are OpenAI CLIP's. The models add rotary positions to the learnt ones, a pool that
attends with a probe, and, in some, layer scale. A class token shifts every patch's rotary position by one and is not rotated
itself. PE-Lang and PE-Spatial end after the last block, without norm, pool and projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import attend, layer_norm, linear, num_blocks, patchify
from ..rope import attend_rotated, interleaved_angles, rotate_pairs
from .openai_clip import BLOCK, tower
from .rules import Facts, Fold, Format, Rename

_EPS = 1e-5


def _apart(packed: Tensor, facts: Facts) -> tuple[Tensor, Tensor]:
    """The query's part of a packed projection, and the part of keys and values."""
    if packed.shape[0] % 3:
        raise ValueError("no q, k and v of one width")
    third = packed.shape[0] // 3
    return packed[:third], packed[third:]


def _together(query: Tensor, key_value: Tensor, facts: Facts) -> tuple[Tensor]:
    return (torch.cat([query, key_value]),)


def _pool(x: Tensor, state: Mapping[str, Tensor], num_heads: int) -> Tensor:
    """Attention of the probe over all tokens, then an MLP: ``(batch, embed_dim)``."""
    probe = state["attn_pool.probe"].expand(len(x), -1, -1)
    weights = state["attn_pool.attn.in_proj_weight"].chunk(3)
    biases = state["attn_pool.attn.in_proj_bias"].chunk(3)
    q, k, v = (t @ w.T + b for t, w, b in zip((probe, x, x), weights, biases))
    y = linear(attend(q, k, v, num_heads), state, "attn_pool.attn.out_proj")
    hidden = F.gelu(linear(layer_norm(y, state, "attn_pool.layernorm", _EPS), state, "attn_pool.mlp.c_fc"))
    return (y + linear(hidden, state, "attn_pool.mlp.c_proj"))[:, 0]


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Image embedding ``(batch, output_dim)``; the mean patch token ``(batch, embed_dim)`` where there is no pool."""
    kernel, heads = state["conv1.weight"], arch["num_heads"]
    grid_size = (image.shape[2] // kernel.shape[2], image.shape[3] // kernel.shape[3])
    x = patchify(image, kernel, None)
    prefix = int("class_embedding" in state)
    if prefix:
        x = torch.cat([state["class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = layer_norm(x + state["positional_embedding"], state, "ln_pre", _EPS)
    angles = interleaved_angles(grid_size, x.shape[-1] // heads, offset=prefix, column_first=True)
    for i in range(num_blocks(state, BLOCK + "ln_1.weight")):
        block = BLOCK.format(i=i)
        scale = [state.get(f"{block}ls_{n}.gamma", 1.0) for n in (1, 2)]
        y = layer_norm(x, state, f"{block}ln_1", _EPS)
        qkv = y @ state[f"{block}attn.in_proj_weight"].T + state[f"{block}attn.in_proj_bias"]
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        attended = attend_rotated(q, k, v, angles, rotate_pairs)
        x = x + scale[0] * linear(attended, state, f"{block}attn.out_proj")
        hidden = F.gelu(linear(layer_norm(x, state, f"{block}ln_2", _EPS), state, f"{block}mlp.c_fc"))
        x = x + scale[1] * linear(hidden, state, f"{block}mlp.c_proj")
    if "ln_post.weight" in state:
        x = layer_norm(x, state, "ln_post", _EPS)
    if "attn_pool.probe" not in state:
        return x[:, prefix:].mean(dim=1)
    return _pool(x, state, arch["pool_heads"]) @ state["proj"]


PERCEPTION_ENCODER_BARE = Format(
    name="perception_encoder_bare",
    namespace="",
    rules=(
        *tower(),
        Rename(BLOCK + "ls_{n}.gamma", "blocks.{i}.gamma_{n}"),
        Rename("attn_pool.probe", "attn_pool.latent"),
        Fold(("attn_pool.attn.in_proj_{p}",), ("attn_pool.q.{p}", "attn_pool.kv.{p}"), _apart, _together),
        Rename("attn_pool.attn.out_proj.{p}", "attn_pool.proj.{p}"),
        Rename("attn_pool.layernorm.{p}", "attn_pool.norm.{p}"),
        Rename("attn_pool.mlp.c_fc.{p}", "attn_pool.mlp.fc1.{p}"),
        Rename("attn_pool.mlp.c_proj.{p}", "attn_pool.mlp.fc2.{p}"),
    ),
    # CLIP's image towers have a norm after the last block, PE-Core's have a probe.
    evidence=lambda state: "conv1.weight" in state and "ln_pre.weight" in state and "ln_post.weight" not in state,
    forward=_forward,
)

PERCEPTION_ENCODER = replace(
    PERCEPTION_ENCODER_BARE.prefixed("visual.", "perception_encoder"),
    evidence=lambda state: {"visual.conv1.weight", "visual.attn_pool.probe"} <= state.keys(),
)
