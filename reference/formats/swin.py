"""Swin and Swin v2: stages of attention in windows. Between stages, two by two tokens are merged into one.

Source: ``microsoft/Swin-Transformer`` ``models/swin_transformer.py``, ``models/swin_transformer_v2.py``. A stage ends with its
merging upstream and begins with it in timm, so the mergings have different numbers. Biases come from a table of offsets, in v2
from a small network that reads the logarithm of the offset. Windows are square, and buffers store what follows from them. Where
a stage has several windows, every second block moves them by half a window, around the edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isqrt, log, log2

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear, num_blocks, patchify, self_attention
from ..relative import Window, attention_bias, offsets
from .rules import SAME, Drop, Format, Rename, StateDict

_EPS = 1e-5
_KERNEL = "patch_embed.proj.weight"
_TABLE, _INDEX, _COORDS = "relative_position_bias_table", "relative_position_index", "relative_coords_table"
_STAGES = 4
_FIRST = "layers.0.blocks.0.attn."


def _coordinates(window: Window, pretrained: int) -> Tensor:
    """v2's offsets ``(2h-1, 2w-1, 2)`` on a logarithmic scale, in units of the pretraining window (0: the model's own).

    They are computed in float32, as in the model.
    """
    sides = (torch.arange(1 - n, n, dtype=torch.float32) / ((pretrained or n) - 1) for n in window)
    away = 8 * torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)
    return away.sign() * torch.log2(away.abs() + 1.0) / log2(8)


def _bias(state: Mapping[str, Tensor], name: str, window: Window, pretrained: int) -> Tensor:
    """Biases ``(num_heads, n, n)`` of a block's attention."""
    if f"{name}cpb_mlp.0.weight" not in state:
        return attention_bias(state[name + _TABLE], window)
    coords = _coordinates(window, pretrained).to(state[f"{name}cpb_mlp.0.weight"])
    table = linear(F.relu(linear(coords, state, f"{name}cpb_mlp.0")), state, f"{name}cpb_mlp.2")
    return 16 * attention_bias(table.flatten(0, 1), window).sigmoid()


def _shift(grid: Window, window: Window, block: int) -> Window:
    """Tokens by which block number ``block`` moves its windows: half a window on axes of several, in every second block."""
    h, w = (part // 2 if side > part and block % 2 else 0 for side, part in zip(grid, window))
    return h, w


def _partitioned(x: Tensor, grid: Window, window: Window, shift: Window) -> Tensor:
    """Tokens ``(batch, n, dim)`` as those of each window ``(batch * windows, tokens, dim)``, row by row."""
    x = x.unflatten(1, grid).roll((-shift[0], -shift[1]), (1, 2))
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _joined(windows: Tensor, grid: Window, window: Window, shift: Window) -> Tensor:
    """The inverse of :func:`_partitioned`."""
    rows, cols = grid[0] // window[0], grid[1] // window[1]
    x = windows.reshape(-1, rows, cols, *window, windows.shape[-1]).transpose(2, 3)
    return x.reshape(len(x), *grid, -1).roll(shift, (1, 2)).flatten(1, 2)


def _mask(grid: Window, window: Window, shift: Window) -> Tensor:
    """What is added to attention ``(windows, 1, n, n)``: -100 between tokens that only the edge brings together."""
    sides = []
    for side, part, moved in zip(grid, window, shift):
        places = torch.arange(side)
        sides.append((places >= side - part).long() + (places >= side - moved))
    regions = (3 * sides[0][:, None] + sides[1]).reshape(1, -1, 1)
    regions = _partitioned(regions, grid, window, (0, 0))
    return -100.0 * (regions != regions.transpose(1, 2)).double()[:, None]


def _attended(x: Tensor, state: Mapping[str, Tensor], name: str, heads: int, bias: Tensor) -> Tensor:
    """Attention of ``x`` ``(batch, n, dim)``. v2 normalises q and k and scales their products by a learnt factor."""
    qkv = linear(x, state, f"{name}qkv")
    if f"{name}q_bias" in state:
        q_bias, v_bias = state[f"{name}q_bias"], state[f"{name}v_bias"]
        qkv = qkv + torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    if f"{name}logit_scale" in state:
        q, k, v = (t.unflatten(-1, (heads, -1)) for t in qkv.chunk(3, dim=-1))
        scale = state[f"{name}logit_scale"].clamp(max=log(100)).exp().reshape(heads, 1)
        q, k = scale * F.normalize(q, dim=-1) * q.shape[-1] ** 0.5, F.normalize(k, dim=-1)
        qkv = torch.cat([t.flatten(-2) for t in (q, k, v)], dim=-1)
    return linear(self_attention(qkv, heads, bias), state, f"{name}proj")


def _merged(x: Tensor, state: Mapping[str, Tensor], name: str, grid: Window) -> Tensor:
    """Merge two by two tokens into one, columns outside, rows inside. The norm comes first in v1 and last in v2."""
    rows, cols = (side // 2 for side in grid)
    x = x.reshape(len(x), rows, 2, cols, 2, -1).permute(0, 1, 3, 4, 2, 5).reshape(len(x), rows * cols, -1)
    if len(state[f"{name}norm.weight"]) == x.shape[-1]:
        return linear(layer_norm(x, state, f"{name}norm", _EPS), state, f"{name}reduction")
    return layer_norm(linear(x, state, f"{name}reduction"), state, f"{name}norm", _EPS)


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping, early: bool) -> Tensor:
    """Logits, or pooled features if the checkpoint has no head. With ``early``, a stage begins with its merging.

    Without a ``window_size`` in ``arch`` (or 0), each stage is one window.
    """
    kernel = state[_KERNEL]
    grid = (image.shape[-2] // kernel.shape[-2], image.shape[-1] // kernel.shape[-1])
    x = layer_norm(patchify(image, kernel, state["patch_embed.proj.bias"]), state, "patch_embed.norm", _EPS)
    heads, pretrained, stage = arch["num_heads"], arch.get("pretrained_window", 0), 0
    while f"layers.{stage}.blocks.0.norm1.weight" in state:
        merging = f"layers.{stage if early else stage - 1}.downsample."
        if f"{merging}norm.weight" in state:
            x = _merged(x, state, merging, grid)
            grid, heads = (grid[0] // 2, grid[1] // 2), 2 * heads
        largest = arch.get("window_size") or max(grid)
        window = (min(grid[0], largest), min(grid[1], largest))
        for i in range(num_blocks(state, f"layers.{stage}.blocks.{{i}}.norm1.weight")):
            block = f"layers.{stage}.blocks.{i}."
            post_norm = f"{block}attn.logit_scale" in state
            bias, shift = _bias(state, f"{block}attn.", window, pretrained), _shift(grid, window, i)
            if any(shift):
                bias = bias + _mask(grid, window, shift).to(bias).repeat(len(x), 1, 1, 1)
            for n in (1, 2):
                y = x if post_norm else layer_norm(x, state, f"{block}norm{n}", _EPS)
                if n == 1:
                    y = _attended(_partitioned(y, grid, window, shift), state, f"{block}attn.", heads, bias)
                    y = _joined(y, grid, window, shift)
                else:
                    y = linear(F.gelu(linear(y, state, f"{block}mlp.fc1")), state, f"{block}mlp.fc2")
                x = x + (layer_norm(y, state, f"{block}norm{n}", _EPS) if post_norm else y)
        stage += 1
    x = layer_norm(x, state, "norm", _EPS).mean(dim=1)
    head = "head.fc" if early else "head"
    return linear(x, state, head) if f"{head}.weight" in state else x


def _index(out: StateDict, stage: int) -> Tensor | None:
    """The buffer of a block: the row of its table ``(n, n)`` that each pair of tokens of the window reads."""
    table = out.get(f"layers.{stage}.blocks.0.attn.{_TABLE}")
    if table is None or isqrt(len(table)) ** 2 != len(table):
        return None
    side = (isqrt(len(table)) + 1) // 2
    return attention_bias(torch.arange(len(table))[:, None], (side, side))[0]


def _v2_buffer(out: StateDict, name: str) -> Tensor | None:
    """A buffer of v2, for windows of 8x8. Nothing else in a checkpoint gives their size."""
    if f"{_FIRST}cpb_mlp.0.weight" not in out:
        return None
    window = (8, 8)
    rows = offsets(window)[0] * offsets(window)[1]
    return _coordinates(window, 0)[None] if name == _COORDS else attention_bias(torch.arange(rows)[:, None], window)[0]


def _is_swin(state: Mapping[str, Tensor], own: str, early: bool) -> bool:
    """Whether a state dict is a Swin whose first merging ends the first stage or (``early``) begins the second."""
    merging = "layers.{}.downsample.reduction.weight"
    first = merging.format(0) not in state and merging.format(1) in state if early else merging.format(0) in state
    return first and {_KERNEL, _FIRST + own} <= state.keys()


_MERGINGS = tuple(
    Rename(f"layers.{n - 1}.downsample.{{rest}}", f"layers.{n}.downsample.{{rest}}") for n in range(1, _STAGES)
)
_HEAD = Rename("head.{p}", "head.fc.{p}")
_V1_BUFFERS = (
    *(Drop(f"layers.{n}.blocks.{{i}}.attn.{_INDEX}", partial(_index, stage=n)) for n in range(_STAGES)),
    Drop("layers.{i}.blocks.{any}.attn_mask"),
)
_V2_BUFFERS = (
    *(Drop(f"layers.{{i}}.blocks.0.attn.{name}", partial(_v2_buffer, name=name)) for name in (_COORDS, _INDEX)),
    *(Drop(f"layers.{{i}}.blocks.{{any}}.attn.{name}") for name in (_COORDS, _INDEX)),
    Drop("layers.{i}.blocks.{any}.attn_mask"),
)

SWIN = Format(
    name="swin",
    namespace="",
    rules=(*_V1_BUFFERS, *_MERGINGS, _HEAD, SAME),
    evidence=partial(_is_swin, own=_TABLE, early=False),
    forward=partial(_forward, early=False),
    square_windows=True,
)

SWIN_NATIVE = Format(
    name="swin_native",
    namespace="",
    rules=(SAME,),
    evidence=partial(_is_swin, own=_TABLE, early=True),
    forward=partial(_forward, early=True),
)

SWIN_V2 = Format(
    name="swin_v2",
    namespace="",
    rules=(*_V2_BUFFERS, *_MERGINGS, _HEAD, SAME),
    evidence=partial(_is_swin, own="cpb_mlp.0.weight", early=False),
    forward=partial(_forward, early=False),
)

SWIN_V2_NATIVE = Format(
    name="swin_v2_native",
    namespace="",
    rules=(SAME,),
    evidence=partial(_is_swin, own="cpb_mlp.0.weight", early=True),
    forward=partial(_forward, early=True),
)
