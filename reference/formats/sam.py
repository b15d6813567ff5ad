"""The image encoder of Segment Anything, with attention in windows, biases decomposed by axis, and a convolutional neck.

Source: ``facebookresearch/segment-anything`` ``segment_anything/modeling/image_encoder.py``. Positions are stored as a grid
``(1, h, w, embed_dim)``. Every block has a table of ``2s-1`` relative positions for each axis. ``s`` is the side of its window,
or of the grid for global attention. The windows are hyperparameters of the model and not stored in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear, num_blocks, patchify
from .rules import Format, Rename, strip

_ENCODER = "image_encoder."
_EPS = 1e-6


def _windows(x: Tensor, side: int) -> Tensor:
    """``(batch, h, w, dim)`` padded with zeros below and to the right, cut into windows ``(batch, y, x, side, side, dim)``."""
    below, right = -x.shape[1] % side, -x.shape[2] % side
    padded = F.pad(x, (0, 0, 0, right, 0, below))
    return padded.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)


def _rejoined(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`_windows`, without the padding."""
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


def _attention(x: Tensor, state: Mapping[str, Tensor], name: str, num_heads: int) -> Tensor:
    """Attention in windows ``(..., h, w, dim)``. A query's bias for a key is its product with their relative position."""
    *batch, height, width, dim = x.shape
    q, k, v = (
        t.reshape(-1, height, width, num_heads, dim // num_heads)
        for t in linear(x, state, f"{name}qkv").chunk(3, dim=-1)
    )
    rows, cols = (
        state[f"{name}rel_pos_{axis}"][torch.arange(side)[:, None] - torch.arange(side) + side - 1]
        for axis, side in (("h", height), ("w", width))
    )
    weight = torch.einsum("byxhd,bijhd->bhyxij", q, k) * (dim // num_heads) ** -0.5
    weight = weight + torch.einsum("byxhd,yid->bhyxi", q, rows)[..., None]
    weight = weight + torch.einsum("byxhd,xjd->bhyxj", q, cols)[..., None, :]
    weight = weight.flatten(4).softmax(dim=-1).unflatten(4, (height, width))
    out = torch.einsum("bhyxij,bijhd->byxhd", weight, v).reshape(*batch, height, width, dim)
    return linear(out, state, f"{name}proj")


def _neck_norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    """LayerNorm over the channels of ``(batch, channels, h, w)``."""
    return layer_norm(x.movedim(1, -1), state, name, _EPS).movedim(-1, 1)


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """The neck's features ``(batch, channels, h, w)``, averaged over the grid: ``(batch, channels)``.

    ``arch["windows"]`` holds each block's window side, 0 for global attention.
    """
    state = strip(state, _ENCODER)
    position = state["pos_embed"]
    x = patchify(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"])
    x = x.unflatten(1, position.shape[1:3]) + position
    for i in range(num_blocks(state, "blocks.{i}.norm1.weight")):
        block, side = f"blocks.{i}.", arch["windows"][i]
        y = layer_norm(x, state, f"{block}norm1", _EPS)
        if side:
            attended = _attention(_windows(y, side), state, f"{block}attn.", arch["num_heads"])
            attended = _rejoined(attended, *x.shape[1:3])
        else:
            attended = _attention(y, state, f"{block}attn.", arch["num_heads"])
        x = x + attended
        hidden = F.gelu(linear(layer_norm(x, state, f"{block}norm2", _EPS), state, f"{block}mlp.lin1"))
        x = x + linear(hidden, state, f"{block}mlp.lin2")
    x = _neck_norm(F.conv2d(x.movedim(-1, 1), state["neck.0.weight"]), state, "neck.1")
    x = _neck_norm(F.conv2d(x, state["neck.2.weight"], padding=1), state, "neck.3")
    return x.mean(dim=(2, 3))


SAM = Format(
    name="sam",
    namespace=_ENCODER,
    rules=(
        Rename(_ENCODER + "blocks.{i}.mlp.lin{n}.{p}", "blocks.{i}.mlp.fc{n}.{p}"),
        Rename(_ENCODER + "{rest}", "{rest}"),
    ),
    evidence=lambda state: _ENCODER + "patch_embed.proj.weight" in state,
    forward=_forward,
)
