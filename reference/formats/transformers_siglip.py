"""Hugging Face transformers' SigLIP vision tower, and SigLIP 2 of a fixed resolution, which is the same model.

Source: ``huggingface/transformers`` ``src/transformers/models/siglip/modeling_siglip.py``. ``SiglipModel`` and
``SiglipForImageClassification`` have the tower under ``vision_model.``, as have the files of ``SiglipVisionModel`` from before
5.0; since then its module and what it saves have no prefix (``src/transformers/conversion_mapping.py``). The head pools by
attention. A model may lack it (``vision_use_head``). A classifier does not use it: it reads the mean of the normalised patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..forward import ACTIVATIONS, attend, layer_norm, linear, patchify
from .rules import Drop, Facts, Fold, Format, Rename, Rule, batch, unbatch
from .transformers_clip import encode_tokens, layers

_EPS = 1e-6
_PREFIX = "vision_model."
POSITIONS = "embeddings.position_embedding.weight"
KERNEL = "embeddings.patch_embedding"


def pooled(x: Tensor, state: Mapping[str, Tensor], prefix: str, arch: Mapping) -> Tensor:
    """What the model gives of embedded patches ``x`` ``(batch, n, embed_dim)``: the pooled image, or logits.

    Without head and classifier, the mean of the normalised patches.
    """
    x = layer_norm(encode_tokens(x, state, prefix, arch, _EPS), state, f"{prefix}post_layernorm", _EPS)
    if "classifier.weight" in state:
        return linear(x.mean(dim=1), state, "classifier")
    if f"{prefix}head.probe" not in state:
        return x.mean(dim=1)
    head = f"{prefix}head."
    probe = state[f"{head}probe"].expand(len(x), -1, -1)
    weights, biases = (state[f"{head}attention.in_proj_{p}"].chunk(3) for p in ("weight", "bias"))
    q, k, v = (t @ w.T + b for t, w, b in zip((probe, x, x), weights, biases))
    y = linear(attend(q, k, v, arch["num_heads"]), state, f"{head}attention.out_proj")
    hidden = ACTIVATIONS[arch["act"]](linear(layer_norm(y, state, f"{head}layernorm", _EPS), state, f"{head}mlp.fc1"))
    return (y + linear(hidden, state, f"{head}mlp.fc2"))[:, 0]


def _forward(prefix: str, state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """The pooled image ``(batch, embed_dim)``, or logits ``(batch, num_classes)``."""
    x = patchify(image, state[f"{prefix}{KERNEL}.weight"], state[f"{prefix}{KERNEL}.bias"])
    return pooled(x + state[prefix + POSITIONS], state, prefix, arch)


def _apart(packed: Tensor, facts: Facts) -> tuple[Tensor, Tensor]:
    """The query's part of a packed projection, and the part of keys and values."""
    if packed.shape[0] % 3:
        raise ValueError("no q, k and v of one width")
    third = packed.shape[0] // 3
    return packed[:third], packed[third:]


def _together(query: Tensor, key_value: Tensor, facts: Facts) -> tuple[Tensor]:
    return (torch.cat([query, key_value]),)


_HEAD = ("attention.in_proj_", "attention.out_proj.", "layernorm.", "mlp.fc1.", "mlp.fc2.")


def _classifier(weight: Tensor, bias: Tensor, *unused_head: Any) -> tuple[Tensor, Tensor]:
    return weight, bias


def _with_unused_head(weight: Tensor, bias: Tensor, facts: Facts) -> tuple[Tensor, ...]:
    """A classifier with a head that it does not use, made of ones."""
    dim = weight.shape[1]
    rows = (3 * dim, dim, dim, dim, dim)
    parts = [(weight.new_ones(n, *(() if k == 2 else (dim,))), weight.new_ones(n)) for k, n in enumerate(rows)]
    return (weight, bias, weight.new_ones(1, 1, dim), *(tensor for pair in parts for tensor in pair))


def tower(prefix: str) -> tuple[Rule, ...]:
    """The rules of a tower without its patch kernel, and of its classifier, which only models with a ``prefix`` have."""
    head = prefix + "head."
    unused = tuple(f"{head}{name}{p}" for name in _HEAD for p in ("weight", "bias"))
    rules: tuple[Rule, ...] = (
        Rename(prefix + POSITIONS, "pos_embed", batch, unbatch),
        Rename(f"{prefix}{KERNEL}.bias", "patch_embed.proj.bias"),
        *layers(prefix),
        Rename(prefix + "post_layernorm.{p}", "norm.{p}"),
        Rename(head + "probe", "attn_pool.latent"),
        Fold((head + "attention.in_proj_{p}",), ("attn_pool.q.{p}", "attn_pool.kv.{p}"), _apart, _together),
        Rename(head + "attention.out_proj.{p}", "attn_pool.proj.{p}"),
        Rename(head + "layernorm.{p}", "attn_pool.norm.{p}"),
        Rename(head + "mlp.fc{n}.{p}", "attn_pool.mlp.fc{n}.{p}"),
    )
    if not prefix:
        return rules
    whole = ("classifier.weight", "classifier.bias", head + "probe", *unused)
    return (
        Fold(whole, ("head.weight", "head.bias"), _classifier, _with_unused_head),
        *rules,
        Rename("classifier.{p}", "head.{p}"),
        Drop("text_model.{rest}"),
        Drop("logit_scale"),
        Drop("logit_bias"),
    )


def is_tower(state: Mapping[str, Tensor], prefix: str, ndim: int) -> bool:
    """Whether a state dict has such a tower under ``prefix``, with a patch kernel of ``ndim`` axes. CLIP's have a class token."""
    kernel = state.get(f"{prefix}{KERNEL}.weight")
    own = {f"{prefix}{KERNEL}.bias", prefix + POSITIONS, f"{prefix}post_layernorm.weight"} <= state.keys()
    return own and kernel is not None and kernel.ndim == ndim


def _format(name: str, prefix: str) -> Format:
    return Format(
        name=name,
        namespace="",
        rules=(Rename(f"{prefix}{KERNEL}.weight", "patch_embed.proj.weight"), *tower(prefix)),
        evidence=lambda state: is_tower(state, prefix, 4),
        forward=lambda state, image, arch: _forward(prefix, state, image, arch),
    )


TRANSFORMERS_SIGLIP = _format("transformers_siglip", _PREFIX)
TRANSFORMERS_SIGLIP_BARE = _format("transformers_siglip_bare", "")
