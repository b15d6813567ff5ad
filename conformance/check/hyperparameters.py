"""Hyperparameters that no tensor of a checkpoint holds, read from the timm model that the user named.

The upstream forward and the regimes of a case need them. Options have the names that families give them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..reference.stems import TIMM

_TABLE = "relative_position_bias_table"
# Hyperparameters that an upstream forward may read and no tensor holds. The answer lists them.
NOT_IN_TENSORS = ("num_heads", "act", "eps", "global_pool", "no_embed_class", "rope", "ref_grid", "post_norm")


def hyperparameters(model: nn.Module, upstream: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of ``model``, and those that a checkpoint's names show.

    ``upstream`` is the checkpoint in the upstream layout, ``state`` the same in timm's layout.
    """
    blocks: list[Any] = [m for m in model.modules() if hasattr(getattr(m, "attn", None), "num_heads")]
    attn = blocks[0].attn
    mlp: Any = getattr(blocks[0], "mlp", None)
    embeds = getattr(model, "embeds", model)
    dim = blocks[0].norm1.weight.shape[0]
    registers = getattr(embeds, "reg_token", None)
    return {
        "embed_dim": dim,
        "depth": len(blocks),
        "num_heads": attn.num_heads,
        "mlp_ratio": mlp.fc2.in_features / dim if hasattr(mlp, "fc2") else 4,
        "class_token": getattr(embeds, "cls_token", None) is not None,
        "dist_token": getattr(model, "dist_token", None) is not None,
        "reg_tokens": 0 if registers is None else registers.shape[1],
        "num_classes": model.num_classes,
        "global_pool": getattr(model, "global_pool", "token"),
        "no_embed_class": getattr(model, "no_embed_class", embeds is not model),
        "dynamic_img_size": getattr(model, "dynamic_img_size", False),
        "pos_embed": "learn" if getattr(embeds, "pos_embed", None) is not None else "none",
        "act": _activation(getattr(mlp, "act", None)),
        "eps": blocks[0].norm1.eps,
        "post_norm": "PostNorm" in type(blocks[0]).__name__ or "ResPost" in type(blocks[0]).__name__,
        "pool_heads": getattr(getattr(model, "attn_pool", None), "num_heads", None),
        "windows": tuple(getattr(block, "window_size", 0) for block in blocks),
        "window_size": _window_side(blocks[0]),
        "pretrained_window": max(getattr(attn, "pretrained_window_size", (0,))),
        "stages": len({k.split(".")[3] for k in state if k.startswith("patch_embed.backbone.stages.")}),
        "pre_logits": False,  # timm's models have no representation layer
        "stem_constants": TIMM,
        **_rotary(getattr(model, "rope", None)),
        **_read_from_names(upstream, state),
    }


def _window_side(block: Any) -> int:
    """Side of a Swin's windows, 0 of other models. Releases hold a number or ``(height, width)``."""
    window = block.window_size if hasattr(block, "shift_size") else 0
    return window if isinstance(window, int) else max(window)


def _activation(module: nn.Module | None) -> str:
    name = type(module).__name__
    if name == "GELU" and getattr(module, "approximate", "none") == "tanh":
        return "gelu_tanh"
    return {"GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu"}.get(name, "gelu")


def _rotary(rope: nn.Module | None) -> dict[str, Any]:
    """Options of a rotary embedding. An option that the release lacks has its default value."""
    if rope is None:
        return {"rope": ""}
    kinds = {"RotaryEmbeddingMixed": "mixed", "RotaryEmbeddingDinoV3": "dinov3"}
    side = getattr(rope, "ref_feat_shape", None)
    return {
        "rope": kinds.get(type(rope).__name__, "cat"),
        "ref_grid": side[0] if side else 0,
        "rope_xy": getattr(rope, "grid_indexing", "ij") == "xy",
        "rope_temperature": getattr(rope, "temperature", 10000.0),
    }


def _read_from_names(upstream: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options that the names of a checkpoint's tensors show."""
    bias = any(k.endswith("head.proj.bias") for k in upstream)
    shared = any(k.startswith(("shared_rel_pos.", "rel_pos_bias.")) for k in state)
    tables = any(k.endswith(_TABLE) for k in state)
    return {
        "head": "proj+bias" if bias else "proj" if any("head.proj." in k for k in upstream) else "none",
        "tables": "shared" if shared else "block" if tables else "none",
        "shared": shared,
        "rel_pos": "bias" if tables else "mlp",
    }
