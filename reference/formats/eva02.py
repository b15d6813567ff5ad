"""EVA-02: rotary positions and gated MLPs; fine-tuned, as pretrained (masked image modelling), and in EVA-CLIP (``visual.``).

Sources: ``baaivision/EVA`` ``EVA-02/asuka/`` ``modeling_finetune.py``, ``modeling_pretrain.py`` and ``rope.py``;
``EVA-CLIP/rei/eva_clip/eva_vit_model.py``. Tiny and small have a fused qkv and a packed gate (``w12``); base and large have
three projections with separate biases, and a norm inside the MLP (in CLIP also inside attention). The rotary table is a buffer
of a module that model and blocks share, so a file holds it under the name of each of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear
from .eva import State, encode_image
from .rules import SAME, Drop, Fold, Format, Rename, Rule, StateDict

_EPS = 1e-6
_KERNEL = "patch_embed.proj.weight"
# Side of the grid that EVA-02 was trained at. Positions of other grids are scaled to it.
_GRID = 16


def _mlp(x: Tensor, state: State, name: str) -> Tensor:
    """``w3(ln(silu(gate) * value))``, without ``ln`` if the checkpoint has no such norm."""
    if f"{name}w12.weight" in state:
        gate, value = linear(x, state, f"{name}w12").chunk(2, dim=-1)
    else:
        gate, value = (linear(x, state, f"{name}{w}") for w in ("w1", "w2"))
    y = F.silu(gate) * value
    y = layer_norm(y, state, f"{name}ffn_ln", _EPS) if f"{name}ffn_ln.weight" in state else y
    return linear(y, state, f"{name}w3")


def _forward(state: State, image: Tensor, arch: Mapping) -> Tensor:
    """Logits, or pooled features where the checkpoint has no head."""
    return encode_image(state, image, {**arch, "rope": "cat", "ref_grid": _GRID}, _mlp)


def _mim_forward(state: State, image: Tensor, arch: Mapping) -> Tensor:
    """The features that fine-tuning starts from: the norm before ``lm_head``, applied to the mean patch token."""
    state = {k.replace("norm.", "fc_norm.") if k.startswith("norm.") else k: v for k, v in state.items()}
    return _forward(state, image, {**arch, "global_pool": "avg"})


def _table(out: StateDict) -> Tensor | None:
    """A stand-in for a rotary buffer, which has a row for each patch. Nothing reads it."""
    return torch.ones_like(out["pos_embed"][0, 1:])


def _beside(which: str) -> Fold:
    """A projection and its bias, which upstream stores outside the projection and timm inside."""
    projection = f"blocks.{{i}}.attn.{which}_proj."
    return Fold(
        (f"{projection}weight", f"blocks.{{i}}.attn.{which}_bias"),
        (f"{projection}weight", f"{projection}bias"),
        lambda weight, bias, facts: (weight, bias),
        lambda weight, bias, facts: (weight, bias),
    )


_RULES: tuple[Rule, ...] = (
    *(Drop(f"{owner}rope.freqs_{f}", _table) for owner in ("", "blocks.{i}.attn.") for f in ("cos", "sin")),
    _beside("q"),
    _beside("v"),
    Rename("blocks.{i}.attn.inner_attn_ln.{p}", "blocks.{i}.attn.norm.{p}"),
    Rename("blocks.{i}.mlp.ffn_ln.{p}", "blocks.{i}.mlp.norm.{p}"),
    Rename("blocks.{i}.mlp.w12.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rename("blocks.{i}.mlp.w1.{p}", "blocks.{i}.mlp.fc1_g.{p}"),
    Rename("blocks.{i}.mlp.w2.{p}", "blocks.{i}.mlp.fc1_x.{p}"),
    Rename("blocks.{i}.mlp.w3.{p}", "blocks.{i}.mlp.fc2.{p}"),
)


def _is_eva02(state: State, pretrained: bool) -> bool:
    names = {_KERNEL, "blocks.0.attn.q_bias", "blocks.0.mlp.w3.weight"}
    return names <= state.keys() and ("mask_token" in state) == pretrained


EVA02 = Format("eva02", "", (*_RULES, SAME), lambda state: _is_eva02(state, False), _forward)

EVA02_CLIP = EVA02.prefixed("visual.", "eva02_clip")

EVA02_MIM = Format(
    name="eva02_mim",
    namespace="",
    rules=(
        Drop("mask_token", lambda out: out["cls_token"].clone()),
        Drop("lm_head.weight", lambda out: out["cls_token"].new_ones(5, out["cls_token"].shape[2])),
        Drop("lm_head.bias", lambda out: out["cls_token"].new_ones(5)),
        Rename("norm.{p}", "fc_norm.{p}"),
        *_RULES,
        SAME,
    ),
    evidence=lambda state: _is_eva02(state, True),
    forward=_mim_forward,
)
