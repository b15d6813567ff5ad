"""MobileCLIP-B: a Vision Transformer behind three convolutions, image tower of ``apple/ml-mobileclip``.

Source: ``mobileclip/models/vit.py``, ``mobileclip/modules/common/transformer.py``,
``mobileclip/modules/image/image_projection.py``. There is no patch kernel: the stem halves, halves and quarters the image.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import layer_norm, linear, num_blocks, self_attention
from .rules import SAME, Fill, Format, Rename, batch, transpose, unbatch

_MODEL = "image_encoder.model."
_BLOCK = _MODEL + "transformer.{i}."
_EPS = 1e-5


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Image embedding ``(batch, output_dim)``.

    ``arch["stem_padding"]`` and ``arch["eps"]`` are upstream's by default. Upstream pads each convolution by
    ``(kernel - 1) // 2``, which is 1 for the first.
    """
    padding, eps = arch.get("stem_padding", (1, 0, 0)), arch.get("eps", _EPS)
    x = image
    for n, pad in enumerate(padding):
        block = f"{_MODEL}patch_emb.{n}.block."
        weight = state[f"{block}conv.weight"]
        x = F.conv2d(x, weight, state.get(f"{block}conv.bias"), stride=weight.shape[-1], padding=pad)
        if f"{block}norm.weight" in state:
            mean, var, weight, bias = (
                state[f"{block}norm.{p}"][:, None, None] for p in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.gelu((x - mean) * torch.rsqrt(var + 1e-5) * weight + bias)
    x = x.flatten(2).transpose(1, 2) + state[f"{_MODEL}pos_embed.pos_embed.pos_embed"][0]
    x = torch.cat([state[f"{_MODEL}cls_token"].expand(len(x), -1, -1), x], dim=1)
    for i in range(num_blocks(state, _BLOCK + "pre_norm_mha.0.weight")):
        block = _BLOCK.format(i=i)
        qkv = linear(layer_norm(x, state, f"{block}pre_norm_mha.0", eps), state, f"{block}pre_norm_mha.1.qkv_proj")
        x = x + linear(self_attention(qkv, arch["num_heads"]), state, f"{block}pre_norm_mha.1.out_proj")
        y = F.gelu(linear(layer_norm(x, state, f"{block}pre_norm_ffn.0", eps), state, f"{block}pre_norm_ffn.1"))
        x = x + linear(y, state, f"{block}pre_norm_ffn.4")
    return layer_norm(x[:, 0], state, f"{_MODEL}post_transformer_norm", eps) @ state[f"{_MODEL}classifier.proj"]


def _timm_forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """The same model under timm's names, where the classifier may have a bias or be missing."""
    dim = len(state["norm.weight"])
    projection = state.get("head.weight", torch.eye(dim, dtype=image.dtype, device=image.device))
    upstream = MOBILECLIP.encode({**state, "head.weight": projection})
    return _forward(upstream, image, arch) + state.get("head.bias", 0.0)


MOBILECLIP = Format(
    name="mobileclip",
    namespace=_MODEL,
    rules=(
        Rename(_MODEL + "cls_token", "cls_token"),
        Rename(_MODEL + "patch_emb.{n}.block.conv.{p}", "patch_embed.backbone.{n}.conv.{p}"),
        Rename(_MODEL + "patch_emb.{n}.block.norm.{rest}", "patch_embed.backbone.{n}.bn.{rest}"),
        Rename(_MODEL + "pos_embed.pos_embed.pos_embed", "pos_embed", unbatch, batch),
        Rename(_BLOCK + "pre_norm_mha.0.{p}", "blocks.{i}.norm1.{p}"),
        Rename(_BLOCK + "pre_norm_mha.1.qkv_proj.{p}", "blocks.{i}.attn.qkv.{p}"),
        Rename(_BLOCK + "pre_norm_mha.1.out_proj.{p}", "blocks.{i}.attn.proj.{p}"),
        Rename(_BLOCK + "pre_norm_ffn.0.{p}", "blocks.{i}.norm2.{p}"),
        Rename(_BLOCK + "pre_norm_ffn.1.{p}", "blocks.{i}.mlp.fc1.{p}"),
        Rename(_BLOCK + "pre_norm_ffn.4.{p}", "blocks.{i}.mlp.fc2.{p}"),
        Rename(_MODEL + "post_transformer_norm.{p}", "norm.{p}"),
        Rename(_MODEL + "classifier.proj", "head.weight", transpose, transpose),
        Fill("head.bias", like="head.weight"),
    ),
    evidence=lambda state: _MODEL + "patch_emb.0.block.conv.weight" in state,
    forward=_forward,
)

# timm/models/vision_transformer_hybrid.py: the same model in timm's names, as in timm's hub.
HYBRID_CONVSTEM = Format(
    name="hybrid_convstem",
    namespace="",
    rules=(SAME,),
    evidence=lambda state: "patch_embed.backbone.0.conv.weight" in state,
    forward=_timm_forward,
)
