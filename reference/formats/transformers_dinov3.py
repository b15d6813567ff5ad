"""Hugging Face transformers' DINOv3 ViT, in the names of its files and in those of its module.

Source: ``huggingface/transformers`` ``src/transformers/models/dinov3_vit/modeling_dinov3_vit.py``. ``save_pretrained`` writes
``layer.N.``, as all published files have it. ``state_dict()`` gives ``model.layer.N.`` since 5.0
(``src/transformers/conversion_mapping.py``). q, k and v are separate layers. timm's models have no bias of the keys, and no
published file has one (``key_bias``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LoadError
from ..forward import layer_norm, linear, num_blocks, patchify
from ..rope import attend_rotated, half_angles, rotate_halves
from .dinov3 import pooled
from .rules import Drop, Facts, Fold, Format, Rename, concatenated

_EPS = 1e-5
_REGISTERS = "embeddings.register_tokens"
_KERNEL = "embeddings.patch_embeddings"


def _forward(block: str, state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Normalised class token ``(batch, embed_dim)``, or the mean of the normalised patch tokens."""
    heads, kernel = arch["num_heads"], state[f"{_KERNEL}.weight"]
    x = patchify(image, kernel, state[f"{_KERNEL}.bias"])
    angles = half_angles((image.shape[2] // kernel.shape[2], image.shape[3] // kernel.shape[3]), x.shape[-1] // heads)
    prefix = [state[name].expand(len(x), -1, -1) for name in ("embeddings.cls_token", _REGISTERS)]
    x = torch.cat([*prefix, x], dim=1)
    for i in range(num_blocks(state, block + "norm1.weight")):
        name = block.format(i=i)
        y = layer_norm(x, state, f"{name}norm1", _EPS)
        q, k, v = (
            linear(y, state, f"{name}attention.{part}_proj").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in "qkv"
        )
        attended = linear(attend_rotated(q, k, v, angles, rotate_halves), state, f"{name}attention.o_proj")
        x = x + state[f"{name}layer_scale1.lambda1"] * attended
        y = layer_norm(x, state, f"{name}norm2", _EPS)
        up = linear(y, state, f"{name}mlp.up_proj")
        gated = f"{name}mlp.gate_proj.weight" in state
        hidden = F.silu(linear(y, state, f"{name}mlp.gate_proj")) * up if gated else F.gelu(up)
        x = x + state[f"{name}layer_scale2.lambda1"] * linear(hidden, state, f"{name}mlp.down_proj")
    return pooled(layer_norm(x, state, "norm", _EPS), angles, arch)


def _without_key_bias(bias: Tensor, facts: Facts) -> tuple[()]:
    if not bias.is_meta and bool(bias.any()):
        raise LoadError("the checkpoint has a bias of the keys, and timm's models have none")
    return ()


def _registers(tokens: Tensor, facts: Facts) -> tuple[Tensor, ...]:
    """A model without registers has a tensor of none."""
    return (tokens,) if tokens.shape[1] else ()


def _no_registers(out: Mapping[str, Tensor]) -> Tensor | None:
    token = out["embeddings.cls_token"]
    return None if _REGISTERS in out else token.new_empty(1, 0, token.shape[-1])


def _rules(block: str) -> tuple[Rename | Fold | Drop, ...]:
    attention, mlp = block + "attention.", block + "mlp."
    return (
        Rename("embeddings.cls_token", "cls_token"),
        Drop("embeddings.mask_token", lambda out: torch.zeros_like(out["embeddings.cls_token"])),
        Fold((_REGISTERS,), ("reg_token",), _registers, _registers),
        Drop(_REGISTERS, _no_registers),
        Rename(_KERNEL + ".{p}", "patch_embed.proj.{p}"),
        Rename(block + "norm{n}.{p}", "blocks.{i}.norm{n}.{p}"),
        concatenated(tuple(f"{attention}{part}_proj.weight" for part in "qkv"), "blocks.{i}.attn.qkv.weight"),
        Rename(attention + "q_proj.bias", "blocks.{i}.attn.q_bias"),
        Fold((attention + "k_proj.bias",), (), _without_key_bias, _without_key_bias),
        Rename(attention + "v_proj.bias", "blocks.{i}.attn.v_bias"),
        Rename(attention + "o_proj.{p}", "blocks.{i}.attn.proj.{p}"),
        Rename(block + "layer_scale{n}.lambda1", "blocks.{i}.gamma_{n}"),
        Fold(
            (mlp + "gate_proj.{p}", mlp + "up_proj.{p}"),
            ("blocks.{i}.mlp.fc1_g.{p}", "blocks.{i}.mlp.fc1_x.{p}"),
            lambda gate, up, facts: (gate, up),
            lambda gate, up, facts: (gate, up),
        ),
        Rename(mlp + "up_proj.{p}", "blocks.{i}.mlp.fc1.{p}"),
        Rename(mlp + "down_proj.{p}", "blocks.{i}.mlp.fc2.{p}"),
        Rename("norm.{p}", "norm.{p}"),
    )


def _format(name: str, block: str) -> Format:
    return Format(
        name=name,
        namespace="",
        rules=_rules(block),
        evidence=lambda state: {_REGISTERS, block.format(i=0) + "layer_scale1.lambda1"} <= state.keys(),
        forward=lambda state, image, arch: _forward(block, state, image, arch),
    )


TRANSFORMERS_DINOV3 = _format("transformers_dinov3", "layer.{i}.")
TRANSFORMERS_DINOV3_MODULE = _format("transformers_dinov3_module", "model.layer.{i}.")
