"""DINOv3 hub weights, EUPE and LingBot-Vision: storage tokens, rotary positions only, an MLP or SwiGLU.

Sources: ``facebookresearch/dinov3`` ``dinov3/models/vision_transformer.py``, ``dinov3/layers/attention.py`` (a query-key-value
bias whose key part is masked out), ``dinov3/layers/ffn_layers.py``, ``dinov3/layers/rope_position_encoding.py``;
``facebookresearch/EUPE`` and ``robbyant/lingbot-vision``, which share the layout. timm keeps the query's and the value's bias:
the key's is masked.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LoadError
from ..forward import layer_norm, linear, num_blocks, patchify
from ..rope import attend_rotated, half_angles, half_periods, rotate_halves
from .rules import SAME, Drop, Facts, Fold, Format, Rename

_EPS = 1e-5
_BIAS = "blocks.{i}.attn.qkv.bias"
_TIMM_BIASES = ("blocks.{i}.attn.q_bias", "blocks.{i}.attn.v_bias")


def _with_periods(registers: Tensor, facts: Facts) -> tuple[Tensor, Tensor]:
    periods = half_periods(registers.shape[-1] // facts.num_heads)
    return registers, periods.to(registers)


# Every checkpoint holds the buffer of the rotary embedding, which follows from the width of a head.
STORAGE_TOKENS = (
    Fold(("storage_tokens", "rope_embed.periods"), ("reg_token",), lambda r, p, facts: (r,), _with_periods),
    Rename("storage_tokens", "reg_token"),
    Drop("rope_embed.periods"),
    Drop("mask_token", lambda out: torch.zeros_like(out["cls_token"][0])),
)


def _of_masked(bias: Tensor, mask: Tensor, facts: Facts) -> tuple[Tensor, Tensor]:
    query, _, value = bias.chunk(3)
    return query, value


def _masked(query: Tensor, value: Tensor, facts: Facts) -> tuple[Tensor, Tensor]:
    """A bias with a nonzero key part, and the mask that makes this part zero."""
    none = torch.zeros_like(query)
    return torch.cat([query, -value, value]), torch.cat([none + 1, none, none + 1])


def _of_unmasked(bias: Tensor, facts: Facts) -> tuple[Tensor, Tensor]:
    query, key, value = bias.chunk(3)
    if not bias.is_meta and bool(key.any()):
        raise LoadError("the checkpoint has a bias of the keys that no mask puts out, and timm's models have none")
    return query, value


def _unmasked(query: Tensor, value: Tensor, facts: Facts) -> tuple[Tensor]:
    return (torch.cat([query, torch.zeros_like(query), value]),)


def embedded(state: Mapping[str, Tensor], image: Tensor, projection: str, num_heads: int) -> tuple[Tensor, Tensor]:
    """All tokens ``(batch, n, embed_dim)``, patches last, and the rotary angles ``(patches, head_dim)`` of the patches."""
    kernel = state[f"{projection}.weight"]
    x = patchify(image, kernel, state[f"{projection}.bias"])
    prefix = [state[name].expand(len(x), -1, -1) for name in ("cls_token", "storage_tokens")]
    grid_size = (image.shape[2] // kernel.shape[2], image.shape[3] // kernel.shape[3])
    return torch.cat([*prefix, x], dim=1), half_angles(grid_size, x.shape[-1] // num_heads)


def pooled(x: Tensor, angles: Tensor, arch: Mapping) -> Tensor:
    """The class token ``(batch, embed_dim)``, or the mean of the patches, as ``arch["global_pool"]`` says."""
    return x[:, 0] if arch["global_pool"] == "token" else x[:, -len(angles) :].mean(dim=1)


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Normalised class token ``(batch, embed_dim)``, or the mean of the normalised patch tokens."""
    heads = arch["num_heads"]
    x, angles = embedded(state, image, "patch_embed.proj", heads)
    for i in range(num_blocks(state, "blocks.{i}.norm1.weight")):
        block = f"blocks.{i}."
        qkv = layer_norm(x, state, f"{block}norm1", _EPS) @ state[f"{block}attn.qkv.weight"].T
        if f"{block}attn.qkv.bias" in state:
            qkv = qkv + state[f"{block}attn.qkv.bias"] * state.get(f"{block}attn.qkv.bias_mask", 1.0)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        attended = linear(attend_rotated(q, k, v, angles, rotate_halves), state, f"{block}attn.proj")
        x = x + state[f"{block}ls1.gamma"] * attended
        y = layer_norm(x, state, f"{block}norm2", _EPS)
        if f"{block}mlp.w1.weight" in state:
            gated = F.silu(linear(y, state, f"{block}mlp.w1")) * linear(y, state, f"{block}mlp.w2")
            y = linear(gated, state, f"{block}mlp.w3")
        else:
            y = linear(F.gelu(linear(y, state, f"{block}mlp.fc1")), state, f"{block}mlp.fc2")
        x = x + state[f"{block}ls2.gamma"] * y
    return pooled(layer_norm(x, state, "norm", _EPS), angles, arch)


def _evidence(state: Mapping[str, Tensor], swiglu: bool) -> bool:
    found = {"storage_tokens", "cls_token", "patch_embed.proj.weight"} <= state.keys()
    return found and ("blocks.0.mlp.w1.weight" in state) == swiglu


_RULES = (
    *STORAGE_TOKENS,
    Drop("local_cls_norm.{p}"),  # the 7B model's norm of local crops, used only in training
    Drop("projectors.{rest}"),  # EUPE's distillation heads
    Rename("blocks.{i}.ls{n}.gamma", "blocks.{i}.gamma_{n}"),
    Fold((_BIAS, _BIAS + "_mask"), _TIMM_BIASES, _of_masked, _masked),
    Fold((_BIAS,), _TIMM_BIASES, _of_unmasked, _unmasked),
    Drop(_BIAS + "_mask"),  # a mask without a bias, for models that have none
)
_SWIGLU = (
    Rename("blocks.{i}.mlp.w1.{p}", "blocks.{i}.mlp.fc1_g.{p}"),
    Rename("blocks.{i}.mlp.w2.{p}", "blocks.{i}.mlp.fc1_x.{p}"),
    Rename("blocks.{i}.mlp.w3.{p}", "blocks.{i}.mlp.fc2.{p}"),
)

DINOV3 = Format("dinov3", "", (*_RULES, SAME), lambda state: _evidence(state, swiglu=False), _forward)

DINOV3_SWIGLU = Format(
    "dinov3_swiglu", "", (*_RULES, *_SWIGLU, SAME), lambda state: _evidence(state, swiglu=True), _forward
)
