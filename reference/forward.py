"""The operations of a Vision Transformer forward pass on plain tensors.

Each format combines them with its own upstream tensor names. So a forward pass shares no code with decoding or with timm, and
its output is an independent check. Run it in float64: then a difference is no rounding error.

Sources: Dosovitskiy et al. 2020 (arXiv:2010.11929); ``openai/CLIP`` ``clip/model.py``; ``facebookresearch/dinov2``
``dinov2/models/vision_transformer.py`` and ``dinov2/layers/swiglu_ffn.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
}


def layer_norm(x: Tensor, state: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    """LayerNorm over the last axis with ``name.weight`` and ``name.bias``."""
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def rms_norm(x: Tensor, state: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    """RMSNorm over the last axis with ``name.weight``."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * state[f"{name}.weight"]


def linear(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    """``x @ weight.T + bias``; the bias may be absent."""
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Multi-head attention of ``q`` ``(batch, n, dim)`` over ``k``, ``v`` ``(batch, m, dim)``, heads in order, no projection.

    ``bias`` ``(num_heads, n, m)`` is added to the scaled products.
    """
    batch, _, dim = q.shape
    q, k, v = (t.reshape(batch, -1, num_heads, dim // num_heads).transpose(1, 2) for t in (q, k, v))
    weight = ((q @ k.transpose(-2, -1)) * (dim // num_heads) ** -0.5 + bias).softmax(dim=-1)
    return (weight @ v).transpose(1, 2).reshape(batch, -1, dim)


def self_attention(qkv: Tensor, num_heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Attention of packed projections ``qkv`` ``(batch, n, 3 * dim)``: the first third is q, the second k, the last v."""
    q, k, v = qkv.chunk(3, dim=-1)
    return attend(q, k, v, num_heads, bias)


def patchify(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Patch embedding ``(batch, n, embed_dim)``, row-major; ``weight`` is ``(embed_dim, in_chans, h, w)``."""
    height, width = weight.shape[-2:]
    patches = image.unfold(2, height, height).unfold(3, width, width)
    tokens = torch.einsum("bcyxhw,dchw->byxd", patches, weight).flatten(1, 2)
    return tokens if bias is None else tokens + bias


def num_blocks(state: Mapping[str, Tensor], pattern: str) -> int:
    """Number of consecutive blocks, from 0, for which ``pattern`` with ``{i}`` names a tensor of ``state``."""
    count = 0
    while pattern.format(i=count) in state:
        count += 1
    return count
