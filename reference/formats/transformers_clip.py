"""Hugging Face transformers' CLIP vision tower: alone, with its projection, in the whole model, and with a classifier.

Source: ``huggingface/transformers`` ``src/transformers/models/clip/modeling_clip.py``: ``CLIPVisionModelWithProjection``,
``CLIPModel`` and ``CLIPForImageClassification`` have the tower under ``vision_model.``. So have all files of ``CLIPVisionModel``
from before 5.0; since then its module and what it saves have no prefix (``src/transformers/conversion_mapping.py``). The
classifier reads the mean of the patches as the last block leaves them, so ``post_layernorm`` is not used then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..forward import ACTIVATIONS, attend, layer_norm, linear, num_blocks, patchify
from .rules import Drop, Facts, Fill, Fold, Format, Rename, Rule, batch, concatenated, unbatch

_EPS = 1e-5
_PREFIX = "vision_model."
LAYER = "encoder.layers.{i}."


def layers(prefix: str) -> tuple[Rule, ...]:
    """The rules of the encoder's layers under ``prefix``. SigLIP's towers use them, too."""
    layer = prefix + LAYER
    return (
        Rename(layer + "layer_norm{n}.{p}", "blocks.{i}.norm{n}.{p}"),
        concatenated(tuple(f"{layer}self_attn.{part}_proj.{{p}}" for part in "qkv"), "blocks.{i}.attn.qkv.{p}"),
        Rename(layer + "self_attn.out_proj.{p}", "blocks.{i}.attn.proj.{p}"),
        Rename(layer + "mlp.fc{n}.{p}", "blocks.{i}.mlp.fc{n}.{p}"),
    )


def encode_tokens(x: Tensor, state: Mapping[str, Tensor], prefix: str, arch: Mapping, eps: float) -> Tensor:
    """The tokens ``x`` ``(batch, n, embed_dim)`` after the encoder's layers."""
    act, heads = ACTIVATIONS[arch["act"]], arch["num_heads"]
    for i in range(num_blocks(state, f"{prefix}{LAYER}layer_norm1.weight")):
        layer = prefix + LAYER.format(i=i)
        y = layer_norm(x, state, f"{layer}layer_norm1", eps)
        q, k, v = (linear(y, state, f"{layer}self_attn.{part}_proj") for part in "qkv")
        x = x + linear(attend(q, k, v, heads), state, f"{layer}self_attn.out_proj")
        hidden = act(linear(layer_norm(x, state, f"{layer}layer_norm2", eps), state, f"{layer}mlp.fc1"))
        x = x + linear(hidden, state, f"{layer}mlp.fc2")
    return x


def _forward(prefix: str, state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Image embedding ``(batch, projection_dim)``, logits with a classifier, or the normalised class token with neither."""
    x = patchify(image, state[f"{prefix}embeddings.patch_embedding.weight"], None)
    cls = state[f"{prefix}embeddings.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([cls, x], dim=1) + state[f"{prefix}embeddings.position_embedding.weight"]
    x = encode_tokens(layer_norm(x, state, f"{prefix}pre_layrnorm", _EPS), state, prefix, arch, _EPS)
    if "classifier.weight" in state:
        return linear(x[:, 1:].mean(dim=1), state, "classifier")
    x = layer_norm(x[:, 0], state, f"{prefix}post_layernorm", _EPS)
    return linear(x, state, "visual_projection") if "visual_projection.weight" in state else x


def _token(tensor: Tensor, facts: Facts) -> Tensor:
    return tensor[None, None]


def _untoken(tensor: Tensor, facts: Facts) -> Tensor:
    return tensor[0, 0]


def _tower(prefix: str) -> tuple[Rule, ...]:
    return (
        Rename(f"{prefix}embeddings.class_embedding", "cls_token", _token, _untoken),
        Rename(f"{prefix}embeddings.position_embedding.weight", "pos_embed", batch, unbatch),
        Rename(f"{prefix}embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
        Rename(prefix + "pre_layrnorm.{p}", "norm_pre.{p}"),
        *layers(prefix),
        Rename(prefix + "post_layernorm.{p}", "norm.{p}"),
    )


def _classifier(weight: Tensor, bias: Tensor, *unused_norm: Any) -> tuple[Tensor, Tensor]:
    return weight, bias


def _with_unused_norm(weight: Tensor, bias: Tensor, facts: Facts) -> tuple[Tensor, ...]:
    norm = weight.new_ones(weight.shape[1])
    return weight, bias, norm, -norm


def _position_ids(out: Mapping[str, Tensor]) -> Tensor:
    """The buffer of files from before 4.31."""
    rows = out[f"{_PREFIX}embeddings.position_embedding.weight"]
    return torch.arange(len(rows), device=rows.device)[None]


TRANSFORMERS_CLIP = Format(
    name="transformers_clip",
    namespace="",
    rules=(
        Fold(
            ("classifier.weight", "classifier.bias", *(f"{_PREFIX}post_layernorm.{p}" for p in ("weight", "bias"))),
            ("head.weight", "head.bias"),
            _classifier,
            _with_unused_norm,
        ),
        *_tower(_PREFIX),
        Drop(f"{_PREFIX}embeddings.position_ids", _position_ids),
        Rename("visual_projection.weight", "head.weight"),
        Fill("head.bias", like="head.weight"),
        Drop("text_model.{rest}"),
        Drop("text_projection.weight"),
        Drop("logit_scale"),
    ),
    evidence=lambda state: {f"{_PREFIX}embeddings.class_embedding", f"{_PREFIX}pre_layrnorm.weight"} <= state.keys(),
    forward=lambda state, image, arch: _forward(_PREFIX, state, image, arch),
)

TRANSFORMERS_CLIP_BARE = Format(
    name="transformers_clip_bare",
    namespace="",
    rules=_tower(""),
    evidence=lambda state: {"embeddings.class_embedding", "pre_layrnorm.weight"} <= state.keys(),
    forward=lambda state, image, arch: _forward("", state, image, arch),
)
