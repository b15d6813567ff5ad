"""OpenMMLab's VisionTransformer (mmpretrain, formerly mmcls): a model's file, with an MLP or SwiGLU, and a backbone's alone.

Source: ``open-mmlab/mmpretrain`` ``mmpretrain/models/backbones/vision_transformer.py``,
``mmpretrain/models/heads/vision_transformer_head.py``, ``mmpretrain/models/utils/swiglu_ffn.py``; ``open-mmlab/mmcv``
``mmcv/cnn/bricks/transformer.py: FFN``. ``ln1`` comes after the last block. ``ln2`` comes after the mean of the patches
(``out_type="avg_featmap"``), where a model without ``final_norm`` has no ``ln1``. A classifier of the names ``head.layers.head``
reads the output of ``head.layers.pre_logits``, if there is such a layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear, num_blocks, patchify, self_attention
from .rules import Drop, Format, Rename

_EPS = 1e-6
_HEAD = "head.layers."
# The layers of an MLP in a block's ``ffn``.
_PLAIN = ("layers.0.0", "layers.1")
_SWIGLU = ("w12", "w3")


def _forward(prefix: str, state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits ``(batch, num_classes)``, or pooled features without a head; of a backbone, the class token or the patches' mean."""
    layer = prefix + "layers.{i}."
    x = patchify(
        image, state[f"{prefix}patch_embed.projection.weight"], state.get(f"{prefix}patch_embed.projection.bias")
    )
    cls = [state[f"{prefix}cls_token"].expand(len(x), -1, -1)] if f"{prefix}cls_token" in state else []
    x = torch.cat([*cls, x], dim=1) + state[f"{prefix}pos_embed"]
    if f"{prefix}pre_norm.weight" in state:
        x = layer_norm(x, state, f"{prefix}pre_norm", _EPS)
    for i in range(num_blocks(state, layer + "ln1.weight")):
        name = layer.format(i=i)
        qkv = linear(layer_norm(x, state, f"{name}ln1", _EPS), state, f"{name}attn.qkv")
        attended = linear(self_attention(qkv, arch["num_heads"]), state, f"{name}attn.proj")
        x = x + state.get(f"{name}attn.gamma1.weight", 1.0) * attended
        y = layer_norm(x, state, f"{name}ln2", _EPS)
        if f"{name}ffn.w12.weight" in state:
            gate, value = linear(y, state, f"{name}ffn.w12").chunk(2, dim=-1)
            y = linear(F.silu(gate) * value, state, f"{name}ffn.w3")
        else:
            y = linear(F.gelu(linear(y, state, f"{name}ffn.layers.0.0")), state, f"{name}ffn.layers.1")
        x = x + state.get(f"{name}ffn.gamma2.weight", 1.0) * y
    if f"{prefix}ln1.weight" in state:
        x = layer_norm(x, state, f"{prefix}ln1", _EPS)
    x = x[:, 0] if arch["global_pool"] == "token" else x[:, len(cls) :].mean(dim=1)
    if f"{prefix}ln2.weight" in state:
        x = layer_norm(x, state, f"{prefix}ln2", _EPS)
    if f"{_HEAD}pre_logits.weight" in state:
        x = torch.tanh(linear(x, state, f"{_HEAD}pre_logits"))
    return linear(x, state, f"{_HEAD}head") if f"{_HEAD}head.weight" in state else x


def _rules(prefix: str, mlp: tuple[str, str]) -> tuple[Rename | Drop, ...]:
    layer = prefix + "layers.{i}."
    return (
        Rename(f"{prefix}cls_token", "cls_token"),
        Rename(f"{prefix}pos_embed", "pos_embed"),
        Rename(prefix + "patch_embed.projection.{p}", "patch_embed.proj.{p}"),
        Rename(prefix + "pre_norm.{p}", "norm_pre.{p}"),
        Rename(layer + "ln{n}.{p}", "blocks.{i}.norm{n}.{p}"),
        Rename(layer + "attn.qkv.{p}", "blocks.{i}.attn.qkv.{p}"),
        Rename(layer + "attn.proj.{p}", "blocks.{i}.attn.proj.{p}"),
        Rename(layer + "attn.gamma1.weight", "blocks.{i}.ls1.gamma"),
        Rename(f"{layer}ffn.{mlp[0]}.{{p}}", "blocks.{i}.mlp.fc1.{p}"),
        Rename(f"{layer}ffn.{mlp[1]}.{{p}}", "blocks.{i}.mlp.fc2.{p}"),
        Rename(layer + "ffn.gamma2.weight", "blocks.{i}.ls2.gamma"),
        Rename(prefix + "ln1.{p}", "norm.{p}"),
        Rename(prefix + "ln2.{p}", "fc_norm.{p}"),
    )


_CLASSIFIER = (Rename(_HEAD + "head.{p}", "head.{p}"), Drop(_HEAD + "pre_logits.{p}"))


def _format(name: str, prefix: str, mlp: tuple[str, str], *more: Rename | Drop) -> Format:
    found = {f"{prefix}patch_embed.projection.weight", f"{prefix}pos_embed", f"{prefix}layers.0.ffn.{mlp[0]}.weight"}
    return Format(
        name=name,
        namespace="",
        rules=(*_rules(prefix, mlp), *more),
        evidence=lambda state: found <= state.keys(),
        forward=lambda state, image, arch: _forward(prefix, state, image, arch),
    )


OPEN_MMLAB = _format("open_mmlab", "backbone.", _PLAIN, *_CLASSIFIER)
OPEN_MMLAB_SWIGLU = _format("open_mmlab_swiglu", "backbone.", _SWIGLU, *_CLASSIFIER)
OPEN_MMLAB_BACKBONE = _format("open_mmlab_backbone", "", _PLAIN)
