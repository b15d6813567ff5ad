"""AIMv2: RMSNorm everywhere, gated MLPs, no bias but the patch embedding's.

Source: ``apple/ml-aim`` ``aim-v2/aim/v2/torch/models.py``, ``aim-v2/aim/v2/torch/layers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from ..forward import linear, num_blocks, patchify, rms_norm, self_attention
from .rules import Format, Rename

_EPS = 1e-5
_PATCH = "preprocessor.patchifier."
_BLOCK = "trunk.blocks.{i}."


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Mean over the tokens ``(batch, embed_dim)``; upstream returns the tokens themselves."""
    x = patchify(image, state[f"{_PATCH}proj.weight"], state[f"{_PATCH}proj.bias"])
    x = rms_norm(x, state, f"{_PATCH}norm", _EPS) + state["preprocessor.pos_embed"]
    for i in range(num_blocks(state, _BLOCK + "norm_1.weight")):
        block = _BLOCK.format(i=i)
        qkv = linear(rms_norm(x, state, f"{block}norm_1", _EPS), state, f"{block}attn.qkv")
        x = x + linear(self_attention(qkv, arch["num_heads"]), state, f"{block}attn.proj")
        y = rms_norm(x, state, f"{block}norm_2", _EPS)
        gated = F.silu(linear(y, state, f"{block}mlp.fc1")) * linear(y, state, f"{block}mlp.fc3")
        x = x + linear(gated, state, f"{block}mlp.fc2")
    return rms_norm(x, state, "trunk.post_trunk_norm", _EPS).mean(dim=1)


AIMV2 = Format(
    name="aimv2",
    namespace="",
    rules=(
        Rename(_PATCH + "proj.{p}", "patch_embed.proj.{p}"),
        Rename(_PATCH + "norm.weight", "patch_embed.norm.weight"),
        Rename("preprocessor.pos_embed", "pos_embed"),
        Rename(_BLOCK + "norm_{n}.weight", "blocks.{i}.norm{n}.weight"),
        Rename(_BLOCK + "attn.{rest}", "blocks.{i}.attn.{rest}"),
        Rename(_BLOCK + "mlp.fc1.weight", "blocks.{i}.mlp.fc1_g.weight"),
        Rename(_BLOCK + "mlp.fc3.weight", "blocks.{i}.mlp.fc1_x.weight"),
        Rename(_BLOCK + "mlp.fc2.weight", "blocks.{i}.mlp.fc2.weight"),
        Rename("trunk.post_trunk_norm.weight", "norm.weight"),
    ),
    evidence=lambda state: "preprocessor.patchifier.proj.weight" in state,
    forward=_forward,
)
