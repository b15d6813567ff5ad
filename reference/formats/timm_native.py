"""timm's own VisionTransformer layout, and its early form with a linear patch embedding.

Source: ``huggingface/pytorch-image-models`` ``timm/models/vision_transformer.py``. The early form stored the patch
embedding as a linear layer over patches flattened in the order (channel, row, column), often with ``pre_logits``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import LoadError
from ..forward import ACTIVATIONS, attend, layer_norm, linear, num_blocks, patchify, self_attention
from .rules import Drop, Facts, Format, Rename

_KERNEL = "patch_embed.proj.weight"


def trunk_forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Pooled features ``(batch, embed_dim)`` of timm-layout tensors, before any classifier."""
    eps, act, heads = arch.get("eps", 1e-6), ACTIVATIONS[arch.get("act", "gelu")], arch["num_heads"]
    x = patchify(image, state[_KERNEL], state.get("patch_embed.proj.bias"))
    prefix = [state[k].expand(len(x), -1, -1) for k in ("cls_token", "reg_token") if k in state]
    if arch.get("no_embed_class"):
        x = torch.cat([*prefix, x + state["pos_embed"]], dim=1)
    else:
        x = torch.cat([*prefix, x], dim=1) + state["pos_embed"]
    if "norm_pre.weight" in state:
        x = layer_norm(x, state, "norm_pre", eps)
    for i in range(num_blocks(state, "blocks.{i}.norm1.weight")):
        block = f"blocks.{i}."
        scale = [state.get(f"{block}ls{n}.gamma", 1.0) for n in (1, 2)]
        qkv = linear(layer_norm(x, state, f"{block}norm1", eps), state, f"{block}attn.qkv")
        x = x + scale[0] * linear(self_attention(x, qkv, heads), state, f"{block}attn.proj")
        hidden = act(linear(layer_norm(x, state, f"{block}norm2", eps), state, f"{block}mlp.fc1"))
        x = x + scale[1] * linear(hidden, state, f"{block}mlp.fc2")
    if "norm.weight" in state:
        x = layer_norm(x, state, "norm", eps)
    if "attn_pool.latent" in state:
        return _attention_pool(x, state, arch, eps, act)
    tokens = sum(t.shape[1] for t in prefix)
    x = x[:, 0] if arch.get("global_pool", "token") == "token" else x[:, tokens:].mean(dim=1)
    return layer_norm(x, state, "fc_norm", eps) if "fc_norm.weight" in state else x


def _attention_pool(x: Tensor, state: Mapping[str, Tensor], arch: Mapping, eps: float, act) -> Tensor:
    latent = state["attn_pool.latent"].expand(len(x), -1, -1)
    k, v = linear(x, state, "attn_pool.kv").chunk(2, dim=-1)
    y = linear(attend(linear(latent, state, "attn_pool.q"), k, v, arch["num_heads"]), state, "attn_pool.proj")
    hidden = act(linear(layer_norm(y, state, "attn_pool.norm", eps), state, "attn_pool.mlp.fc1"))
    return (y + linear(hidden, state, "attn_pool.mlp.fc2"))[:, 0]


def forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits ``(batch, num_classes)``, or pooled features where the checkpoint has no head."""
    x = trunk_forward(state, image, arch)
    return linear(x, state, "head") if "head.weight" in state else x


def _to_conv(weight: Tensor, facts: Facts) -> Tensor:
    """Linear kernel ``(embed_dim, in_chans * h * w)`` to ``(embed_dim, in_chans, h, w)``.

    The columns do not say ``h`` and ``w``: the model's patch size when it accounts for all of them, else a square.
    """
    pixels, rest = divmod(weight.shape[1], facts.in_chans)
    side = int(pixels**0.5)
    if not rest and facts.patch_size is not None and facts.patch_size[0] * facts.patch_size[1] == pixels:
        size = facts.patch_size
    elif not rest and side * side == pixels:
        size = (side, side)
    else:
        raise LoadError(
            f"a linear patch embedding with {weight.shape[1]} columns is no square patch of {facts.in_chans} channels: "
            "its patch size cannot be told"
        )
    return weight.reshape(len(weight), facts.in_chans, *size)


def _to_linear(weight: Tensor, facts: Facts) -> Tensor:
    return weight.flatten(1)


def _pre_logits(out: Mapping[str, Tensor], which: str) -> Tensor | None:
    """A representation layer, where no head follows it: a head would read its output, which timm no longer computes."""
    if "head.weight" in out:
        return None
    bias = out["norm.bias"]
    return torch.diag(torch.ones_like(bias)) if which == "weight" else torch.zeros_like(bias)


def _linear_forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Cut the image by hand and multiply by the stored matrix, as the early code did."""
    height, width = arch["patch_size"]
    channels = image.shape[1]
    weight = state[_KERNEL].reshape(-1, channels, height, width)
    return forward({**state, _KERNEL: weight}, image, arch)


def _is_native(state: Mapping[str, Tensor], ndim: int) -> bool:
    kernel = state.get(_KERNEL)
    return kernel is not None and kernel.ndim == ndim and "mask_token" not in state


TIMM_NATIVE = Format(
    name="timm_native",
    namespace="",
    rules=(Rename("{rest}", "{rest}"),),
    evidence=lambda state: _is_native(state, 4),
    forward=forward,
)

LEGACY_LINEAR = Format(
    name="legacy_linear",
    namespace="",
    rules=(
        Rename(_KERNEL, _KERNEL, _to_conv, _to_linear),
        Drop("pre_logits.fc.weight", lambda out: _pre_logits(out, "weight")),
        Drop("pre_logits.fc.bias", lambda out: _pre_logits(out, "bias")),
        Rename("{rest}", "{rest}"),
    ),
    evidence=lambda state: _is_native(state, 2),
    forward=_linear_forward,
)
