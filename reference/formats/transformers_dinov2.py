"""Hugging Face transformers' DINOv2, plain and with register tokens, with an MLP or SwiGLU.

Source: ``huggingface/transformers`` ``src/transformers/models/`` ``dinov2/modeling_dinov2.py`` and
``dinov2_with_registers/modeling_dinov2_with_registers.py``; ``src/transformers/conversion_mapping.py``. Files have the names of
4.x. The ``state_dict()`` of 5.x has others for attention and SwiGLU, whose gate and value are one layer in a file. Positions
have a row for the class token but none for registers, as in :mod:`.dinov2`. The classifier of ``ForImageClassification`` reads
the class token and the mean patch token, which no timm model does: its weight has twice the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import ACTIVATIONS, attend, layer_norm, linear, num_blocks, patchify
from .dinov2 import fold_class_row, unfold_class_row
from .rules import Drop, Fold, Format, Rename, Rule, concatenated
from .transformers_vit import EMBEDDINGS, PROJECTION, State, embedding_rules, root_of

_EPS = 1e-6
_ROOTS = ("dinov2.", "dinov2_with_registers.", "")
_LAYER = "encoder.layer.{i}."
# Query, key, value and projection: in a file, and in the state_dict() of 5.x.
_SAVED = tuple(f"attention.{name}" for name in ("attention.query", "attention.key", "attention.value", "output.dense"))
_MODULES = tuple(f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj"))


def _mask(root: str, out: Mapping[str, Tensor]) -> Tensor | None:
    token = out.get(f"{root}{EMBEDDINGS}cls_token")
    return None if token is None else torch.zeros_like(token[0])


def _rules(root: str) -> tuple[Rule, ...]:
    at = root + _LAYER
    attention = (
        rule
        for *qkv, out in (_SAVED, _MODULES)
        for rule in (
            concatenated(tuple(f"{at}{part}.{{p}}" for part in qkv), "blocks.{i}.attn.qkv.{p}"),
            Rename(f"{at}{out}.{{p}}", "blocks.{i}.attn.proj.{p}"),
        )
    )
    return (
        *attention,
        Rename(at + "norm{n}.{p}", "blocks.{i}.norm{n}.{p}"),
        Rename(at + "layer_scale{n}.lambda1", "blocks.{i}.ls{n}.gamma"),
        Rename(root + "layernorm.{p}", "norm.{p}"),
        Drop(f"{root}{EMBEDDINGS}mask_token", partial(_mask, root)),
        *embedding_rules(root),
    )


def _mlp(root: str) -> tuple[Rule, ...]:
    return (Rename(root + _LAYER + "mlp.fc{n}.{p}", "blocks.{i}.mlp.fc{n}.{p}"),)


def _swiglu(root: str) -> tuple[Rule, ...]:
    at = root + _LAYER + "mlp."
    return (
        Rename(at + "weights_in.{p}", "blocks.{i}.mlp.fc1.{p}"),
        Rename(at + "weights_out.{p}", "blocks.{i}.mlp.fc2.{p}"),
        concatenated((at + "gate_proj.{p}", at + "up_proj.{p}"), "blocks.{i}.mlp.fc1.{p}"),
        Rename(at + "down_proj.{p}", "blocks.{i}.mlp.fc2.{p}"),
    )


def _registers(root: str) -> Fold:
    at = root + EMBEDDINGS
    return Fold(
        (at + "cls_token", at + "position_embeddings", at + "register_tokens"),
        ("cls_token", "pos_embed", "reg_token"),
        fold_class_row,
        unfold_class_row,
    )


def _hidden(y: Tensor, state: State, mlp: str, arch: Mapping) -> Tensor:
    """The MLP of a block, or its SwiGLU with gate and value in one layer or in two."""
    if f"{mlp}fc1.weight" in state:
        return linear(ACTIVATIONS[arch.get("act", "gelu")](linear(y, state, f"{mlp}fc1")), state, f"{mlp}fc2")
    if f"{mlp}weights_in.weight" in state:
        gate, value = linear(y, state, f"{mlp}weights_in").chunk(2, dim=-1)
        return linear(F.silu(gate) * value, state, f"{mlp}weights_out")
    gate, value = (linear(y, state, f"{mlp}{name}_proj") for name in ("gate", "up"))
    return linear(F.silu(gate) * value, state, f"{mlp}down_proj")


def _forward(state: State, image: Tensor, arch: Mapping) -> Tensor:
    """Normalised class token ``(batch, embed_dim)``."""
    root, eps = root_of(state, *_ROOTS) or "", arch.get("eps", _EPS)
    at = root + EMBEDDINGS
    x = patchify(image, state[f"{at}{PROJECTION}weight"], state[f"{at}{PROJECTION}bias"])
    x = torch.cat([state[f"{at}cls_token"].expand(len(x), -1, -1), x], dim=1) + state[f"{at}position_embeddings"]
    if f"{at}register_tokens" in state:
        x = torch.cat([x[:, :1], state[f"{at}register_tokens"].expand(len(x), -1, -1), x[:, 1:]], dim=1)
    names = _SAVED if f"{root}{_LAYER.format(i=0)}{_SAVED[0]}.weight" in state else _MODULES
    for i in range(num_blocks(state, root + _LAYER + "norm1.weight")):
        block = root + _LAYER.format(i=i)
        y = layer_norm(x, state, f"{block}norm1", eps)
        q, k, v = (linear(y, state, block + name) for name in names[:3])
        y = linear(attend(q, k, v, arch["num_heads"]), state, block + names[3])
        x = x + state[f"{block}layer_scale1.lambda1"] * y
        y = _hidden(layer_norm(x, state, f"{block}norm2", eps), state, f"{block}mlp.", arch)
        x = x + state[f"{block}layer_scale2.lambda1"] * y
    return layer_norm(x[:, 0], state, f"{root}layernorm", eps)


def _kind(state: State) -> str | None:
    root = root_of(state, *_ROOTS)
    if root is None or f"{root}{_LAYER.format(i=0)}layer_scale1.lambda1" not in state:
        return None
    if f"{root}{_LAYER.format(i=0)}mlp.fc1.weight" not in state:
        return "transformers_dinov2_swiglu"
    registers = f"{root}{EMBEDDINGS}register_tokens" in state
    return "transformers_dinov2_registers" if registers else "transformers_dinov2"


_HEAD = Rename("classifier.{p}", "head.{p}")

TRANSFORMERS_DINOV2 = Format(
    name="transformers_dinov2",
    namespace="",
    rules=(*(rule for root in ("dinov2.", "") for rule in (*_rules(root), *_mlp(root))), _HEAD),
    evidence=lambda state: _kind(state) == "transformers_dinov2",
    forward=_forward,
    prefix_rows=True,
)

TRANSFORMERS_DINOV2_REGISTERS = Format(
    name="transformers_dinov2_registers",
    namespace="",
    rules=(
        *(rule for root in ("dinov2_with_registers.", "") for rule in (_registers(root), *_rules(root), *_mlp(root))),
        _HEAD,
    ),
    evidence=lambda state: _kind(state) == "transformers_dinov2_registers",
    forward=_forward,
    prefix_rows=False,
)

# With registers or without.
TRANSFORMERS_DINOV2_SWIGLU = Format(
    name="transformers_dinov2_swiglu",
    namespace="",
    rules=(*(rule for root in _ROOTS for rule in (_registers(root), *_rules(root), *_swiglu(root))), _HEAD),
    evidence=lambda state: _kind(state) == "transformers_dinov2_swiglu",
    forward=_forward,
)
