"""BEiT-3: the vision branch (``A``) of a multiway encoder, with separate q, k and v.

Sources: ``microsoft/unilm`` ``beit3/modeling_finetune.py``; ``microsoft/torchscale`` ``torchscale/model/BEiT3.py``,
``torchscale/architecture/encoder.py``, ``torchscale/component/embedding.py: PositionalEmbedding`` (positions start at row 2).
Pretraining checkpoints end in the encoder's own norm. Fine-tuned classifiers have a norm of the mean patch token instead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import attend, layer_norm, linear, num_blocks, patchify
from .rules import Drop, Facts, Format, Rename, concatenated

_EPS = 1e-5
_LAYER = "beit3.encoder.layers.{i}."


def _skip_unused(tensor: Tensor, facts: Facts) -> Tensor:
    if len(tensor) < 3:
        raise ValueError("no rows after the two unused ones")
    return tensor[2:][None]


def _with_unused(tensor: Tensor, facts: Facts) -> Tensor:
    """Positions with two rows in front that no model reads. They differ from all other rows."""
    return torch.cat([-tensor[0, :1], 1 - tensor[0, :1], tensor[0]])


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits of a fine-tuned classifier; the normalised class token of a pretraining checkpoint."""
    x = patchify(image, state["beit3.vision_embed.proj.weight"], state["beit3.vision_embed.proj.bias"])
    x = torch.cat([state["beit3.vision_embed.cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = x + state["beit3.encoder.embed_positions.A.weight"][2:]
    for i in range(num_blocks(state, _LAYER + "self_attn_layer_norm.A.weight")):
        layer = _LAYER.format(i=i)
        attn = f"{layer}self_attn."
        y = layer_norm(x, state, f"{layer}self_attn_layer_norm.A", _EPS)
        q, k, v = (linear(y, state, f"{attn}{name}_proj.A") for name in "qkv")
        y = layer_norm(attend(q, k, v, arch["num_heads"]), state, f"{attn}inner_attn_ln.A", _EPS)
        x = x + linear(y, state, f"{attn}out_proj.A")
        y = layer_norm(x, state, f"{layer}final_layer_norm.A", _EPS)
        y = layer_norm(F.gelu(linear(y, state, f"{layer}ffn.A.fc1")), state, f"{layer}ffn.A.ffn_layernorm", _EPS)
        x = x + linear(y, state, f"{layer}ffn.A.fc2")
    if "beit3.encoder.layer_norm.A.weight" in state:
        return layer_norm(x[:, 0], state, "beit3.encoder.layer_norm.A", _EPS)
    x = layer_norm(x[:, 1:].mean(dim=1), state, "fc_norm", _EPS)
    return linear(x, state, "head") if "head.weight" in state else x


BEIT3 = Format(
    name="beit3",
    namespace="",
    rules=(
        Drop("beit3.text_embed.weight"),
        Drop("beit3.vision_embed.mask_token", lambda out: torch.ones_like(out["beit3.vision_embed.cls_token"])),
        Drop("beit3.encoder.{rest}.B.{any}"),
        Rename("beit3.vision_embed.cls_token", "cls_token"),
        Rename("beit3.vision_embed.proj.{p}", "patch_embed.proj.{p}"),
        Rename("beit3.encoder.embed_positions.A.weight", "pos_embed", _skip_unused, _with_unused),
        concatenated(tuple(f"{_LAYER}self_attn.{n}_proj.A.{{p}}" for n in "qkv"), "blocks.{i}.attn.qkv.{p}"),
        Rename(_LAYER + "self_attn.out_proj.A.{p}", "blocks.{i}.attn.proj.{p}"),
        Rename(_LAYER + "self_attn.inner_attn_ln.A.{p}", "blocks.{i}.attn.norm.{p}"),
        Rename(_LAYER + "self_attn_layer_norm.A.{p}", "blocks.{i}.norm1.{p}"),
        Rename(_LAYER + "final_layer_norm.A.{p}", "blocks.{i}.norm2.{p}"),
        Rename(_LAYER + "ffn.A.fc{n}.{p}", "blocks.{i}.mlp.fc{n}.{p}"),
        Rename(_LAYER + "ffn.A.ffn_layernorm.{p}", "blocks.{i}.mlp.norm.{p}"),
        Rename("beit3.encoder.layer_norm.A.{p}", "norm.{p}"),
        Rename("fc_norm.{p}", "fc_norm.{p}"),
        Rename("head.{p}", "head.{p}"),
    ),
    evidence=lambda state: any(key.startswith("beit3.") for key in state),
    forward=_forward,
)
