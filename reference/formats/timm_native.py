"""timm's own VisionTransformer layout, its early form with a linear patch embedding, and upstream formats with the same names.

Source: ``huggingface/pytorch-image-models`` ``timm/models/vision_transformer.py``. The early form stored the patch
embedding as a linear layer over patches flattened in the order (channel, row, column), often with ``pre_logits``.
I-JEPA, MAE and the DeiTs are based on the same code and have its names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt

import torch
from torch import Tensor

from ..errors import LoadError
from ..forward import ACTIVATIONS, Activation, attend, layer_norm, linear, num_blocks, patchify, self_attention
from .eva import EVAS_OWN, is_eva
from .rules import SAME, Drop, Facts, Format, Rename

_KERNEL = "patch_embed.proj.weight"


def trunk_forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Pooled features ``(batch, embed_dim)`` of timm-layout tensors, before any classifier."""
    return encode_tokens(state, patchify(image, state[_KERNEL], state.get("patch_embed.proj.bias")), arch)


def encode_tokens(state: Mapping[str, Tensor], x: Tensor, arch: Mapping) -> Tensor:
    """Pooled features ``(batch, embed_dim)`` from embedded patches ``x`` ``(batch, n, embed_dim)``."""
    eps, act, heads = arch.get("eps", 1e-6), ACTIVATIONS[arch.get("act", "gelu")], arch["num_heads"]
    prefix = [state[k].expand(len(x), -1, -1) for k in ("cls_token", "dist_token", "reg_token") if k in state]
    position = state.get("pos_embed", 0.0)
    outside = arch.get("no_embed_class")
    x = torch.cat([*prefix, x + position if outside else x], dim=1)
    x = x if outside else x + position
    if "norm_pre.weight" in state:
        x = layer_norm(x, state, "norm_pre", eps)
    for i in range(num_blocks(state, "blocks.{i}.norm1.weight")):
        block = f"blocks.{i}."
        scale = [state.get(f"{block}ls{n}.gamma", 1.0) for n in (1, 2)]
        qkv = linear(layer_norm(x, state, f"{block}norm1", eps), state, f"{block}attn.qkv")
        if f"{block}attn.q_norm.weight" in state:
            qkv = _normed_heads(qkv, state, f"{block}attn.", heads, eps)
        x = x + scale[0] * linear(self_attention(qkv, heads), state, f"{block}attn.proj")
        hidden = act(linear(layer_norm(x, state, f"{block}norm2", eps), state, f"{block}mlp.fc1"))
        x = x + scale[1] * linear(hidden, state, f"{block}mlp.fc2")
    if "norm.weight" in state:
        x = layer_norm(x, state, "norm", eps)
    if "attn_pool.latent" in state:
        return _attention_pool(x, state, arch, eps, act)
    if "dist_token" in state:
        return x[:, :2]
    tokens = sum(t.shape[1] for t in prefix)
    x = x[:, 0] if arch.get("global_pool", "token") == "token" else x[:, tokens:].mean(dim=1)
    return layer_norm(x, state, "fc_norm", eps) if "fc_norm.weight" in state else x


def _normed_heads(qkv: Tensor, state: Mapping[str, Tensor], name: str, heads: int, eps: float) -> Tensor:
    """q and k normalised head by head."""
    q, k, v = (t.unflatten(-1, (heads, -1)) for t in qkv.chunk(3, dim=-1))
    q, k = layer_norm(q, state, f"{name}q_norm", eps), layer_norm(k, state, f"{name}k_norm", eps)
    return torch.cat([t.flatten(-2) for t in (q, k, v)], dim=-1)


def _attention_pool(x: Tensor, state: Mapping[str, Tensor], arch: Mapping, eps: float, act: Activation) -> Tensor:
    latent = state["attn_pool.latent"].expand(len(x), -1, -1)
    k, v = linear(x, state, "attn_pool.kv").chunk(2, dim=-1)
    y = linear(attend(linear(latent, state, "attn_pool.q"), k, v, arch["num_heads"]), state, "attn_pool.proj")
    hidden = act(linear(layer_norm(y, state, "attn_pool.norm", eps), state, "attn_pool.mlp.fc1"))
    return (y + linear(hidden, state, "attn_pool.mlp.fc2"))[:, 0]


def forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits ``(batch, num_classes)``, or pooled features where the checkpoint has no head."""
    x = trunk_forward(state, image, arch)
    return linear(x, state, "head") if "head.weight" in state else x


def to_conv(weight: Tensor, facts: Facts) -> Tensor:
    """Linear kernel ``(embed_dim, channels * h * w)`` to ``(embed_dim, channels, h, w)``.

    The columns do not give ``h`` and ``w``. They are the model's patch size if it accounts for all columns, else a square; with
    three channels, as in all such checkpoints, else with the model's number.
    """
    for channels in dict.fromkeys((3, facts.in_chans)):
        pixels, rest = divmod(weight.shape[1], channels)
        side = isqrt(pixels)
        if not rest and facts.patch_size is not None and facts.patch_size[0] * facts.patch_size[1] == pixels:
            return weight.reshape(len(weight), channels, *facts.patch_size)
        if not rest and side * side == pixels:
            return weight.reshape(len(weight), channels, side, side)
    raise LoadError(
        f"a linear patch embedding with {weight.shape[1]} columns is no square patch of {facts.in_chans} channels: "
        "its patch size cannot be told"
    )


def to_linear(weight: Tensor, facts: Facts) -> Tensor:
    return weight.flatten(1)


def _pre_logits(out: Mapping[str, Tensor], which: str) -> Tensor | None:
    """A representation layer for a checkpoint without a head. A head would read its output, which timm no longer computes."""
    if "head.weight" in out:
        return None
    bias = out["norm.bias"]
    return torch.diag(torch.ones_like(bias)) if which == "weight" else torch.zeros_like(bias)


def _linear_forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits, or pooled features without a head; ``arch["pre_logits"]`` false leaves out the representation layer."""
    height, width = arch["patch_size"]
    channels = image.shape[1]
    weight = state[_KERNEL].reshape(-1, channels, height, width)
    x = trunk_forward({**state, _KERNEL: weight}, image, arch)
    if "pre_logits.fc.weight" in state and arch.get("pre_logits", True):
        x = torch.tanh(linear(x, state, "pre_logits.fc"))
    return linear(x, state, "head") if "head.weight" in state else x


def _distilled_forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Mean of the logits of class and distillation token, as DeiT computes it at inference; the mean token without heads."""
    tokens = trunk_forward(state, image, arch)
    if "head.weight" not in state:
        return tokens.mean(dim=1)
    return (linear(tokens[:, 0], state, "head") + linear(tokens[:, 1], state, "head_dist")) / 2


def _deit3_forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    renamed = {re.sub(r"gamma_([12])$", r"ls\1.gamma", key): value for key, value in state.items()}
    return forward(renamed, image, arch)


# Keys that show another format among checkpoints in timm's names.
_OTHERS = ("mask_token", "storage_tokens", "dist_token", "blocks.0.gamma_1", *EVAS_OWN)
# Beginnings of keys of other models: with a stem, with relative positions, with stages.
_ELSEWHERE = ("patch_embed.backbone.", "blocks.0.attn.rel_pos.", "shared_rel_pos.", "layers.")


def is_native(state: Mapping[str, Tensor], ndim: int = 4) -> bool:
    """Whether a state dict is a plain VisionTransformer in timm's names whose patch kernel has ``ndim`` axes."""
    kernel = state.get(_KERNEL)
    elsewhere = any(key.startswith(_ELSEWHERE) for key in state) or any(k in state for k in _OTHERS)
    return kernel is not None and kernel.ndim == ndim and not elsewhere


TIMM_NATIVE = Format("timm_native", "", (SAME,), is_native, forward)

# facebookresearch/ijepa src/models/vision_transformer.py, saved from DistributedDataParallel under "encoder".
IJEPA = replace(TIMM_NATIVE.prefixed("module.", "ijepa"), entry="encoder")

# facebookresearch/mae models_mae.py: the whole pretraining model with its decoder.
MAE_PRETRAINING = Format(
    name="mae_pretraining",
    namespace="",
    rules=(
        Drop("mask_token", lambda out: out["cls_token"].new_ones(1, 1, 8)),
        Drop("decoder_embed.{p}"),
        Drop("decoder_pos_embed", lambda out: out["cls_token"].new_ones(1, out["pos_embed"].shape[1], 8)),
        Drop("decoder_blocks.{rest}"),
        Drop("decoder_norm.{p}"),
        Drop("decoder_pred.{p}"),
        SAME,
    ),
    evidence=lambda state: {"mask_token", "decoder_pos_embed", _KERNEL} <= state.keys(),
    forward=forward,
)

# facebookresearch/deit models.py: DistilledVisionTransformer.
DEIT_DISTILLED = Format(
    "deit_distilled",
    "",
    (SAME,),
    lambda state: {"dist_token", _KERNEL} <= state.keys(),
    _distilled_forward,
)

# facebookresearch/deit models_v2.py: Layer_scale_init_Block.
DEIT3 = Format(
    name="deit3",
    namespace="",
    rules=(Rename("blocks.{i}.gamma_{n}", "blocks.{i}.ls{n}.gamma"), SAME),
    evidence=lambda state: (
        {"blocks.0.gamma_1", _KERNEL} <= state.keys() and "blocks.0.attn.q_bias" not in state and not is_eva(state)
    ),
    forward=_deit3_forward,
)

LEGACY_LINEAR = Format(
    name="legacy_linear",
    namespace="",
    rules=(
        Rename(_KERNEL, _KERNEL, to_conv, to_linear),
        Drop("pre_logits.fc.weight", lambda out: _pre_logits(out, "weight")),
        Drop("pre_logits.fc.bias", lambda out: _pre_logits(out, "bias")),
        SAME,
    ),
    evidence=lambda state: is_native(state, 2),
    forward=_linear_forward,
)
