"""torchvision's VisionTransformer, in its names and in those of files from before 0.13.

Source: ``pytorch/vision`` ``torchvision/models/vision_transformer.py``. Its published files have the older names of the MLP
(``linear_1``, ``linear_2``), which ``MLPBlock`` still reads. ``references/classification/train.py`` saves the average of the
weights beside them, with a counter (``torch.optim.swa_utils.AveragedModel``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear, num_blocks, patchify, self_attention
from .rules import Drop, Format, Rename

_EPS = 1e-6
_BLOCK = "encoder.layers.encoder_layer_{i}."
_NAMES = ("0", "3")
_OLDER = ("linear_1", "linear_2")


def _forward(mlp: tuple[str, str], state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits ``(batch, num_classes)``, or the normalised class token without a head."""
    x = patchify(image, state["conv_proj.weight"], state["conv_proj.bias"])
    x = torch.cat([state["class_token"].expand(len(x), -1, -1), x], dim=1) + state["encoder.pos_embedding"]
    for i in range(num_blocks(state, _BLOCK + "ln_1.weight")):
        block = _BLOCK.format(i=i)
        y = layer_norm(x, state, f"{block}ln_1", _EPS)
        qkv = y @ state[f"{block}self_attention.in_proj_weight"].T + state[f"{block}self_attention.in_proj_bias"]
        x = x + linear(self_attention(qkv, arch["num_heads"]), state, f"{block}self_attention.out_proj")
        hidden = F.gelu(linear(layer_norm(x, state, f"{block}ln_2", _EPS), state, f"{block}mlp.{mlp[0]}"))
        x = x + linear(hidden, state, f"{block}mlp.{mlp[1]}")
    x = layer_norm(x, state, "encoder.ln", _EPS)[:, 0]
    if "heads.pre_logits.weight" in state:
        x = torch.tanh(linear(x, state, "heads.pre_logits"))
    return linear(x, state, "heads.head") if "heads.head.weight" in state else x


def _format(name: str, mlp: tuple[str, str]) -> Format:
    found = {"class_token", "conv_proj.weight", f"{_BLOCK.format(i=0)}mlp.{mlp[0]}.weight"}
    return Format(
        name=name,
        namespace="",
        rules=(
            Rename("class_token", "cls_token"),
            Rename("encoder.pos_embedding", "pos_embed"),
            Rename("conv_proj.{p}", "patch_embed.proj.{p}"),
            Rename(_BLOCK + "ln_{n}.{p}", "blocks.{i}.norm{n}.{p}"),
            Rename(_BLOCK + "self_attention.in_proj_{p}", "blocks.{i}.attn.qkv.{p}"),
            Rename(_BLOCK + "self_attention.out_proj.{p}", "blocks.{i}.attn.proj.{p}"),
            Rename(f"{_BLOCK}mlp.{mlp[0]}.{{p}}", "blocks.{i}.mlp.fc1.{p}"),
            Rename(f"{_BLOCK}mlp.{mlp[1]}.{{p}}", "blocks.{i}.mlp.fc2.{p}"),
            Rename("encoder.ln.{p}", "norm.{p}"),
            Rename("heads.head.{p}", "head.{p}"),
            Drop("heads.pre_logits.{p}"),
            Drop("n_averaged"),
        ),
        evidence=lambda state: found <= state.keys(),
        forward=lambda state, image, arch: _forward(mlp, state, image, arch),
    )


TORCHVISION_VIT = _format("torchvision_vit", _NAMES)
TORCHVISION_VIT_OLDER = _format("torchvision_vit_older", _OLDER)
