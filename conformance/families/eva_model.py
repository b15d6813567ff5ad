"""Tensor shapes and constructor arguments that the families of timm's Eva class share.

Source: ``huggingface/pytorch-image-models`` ``timm/models/eva.py: Eva``. Options are those of :mod:`.vit` where the two models
share them (``class_token``, ``reg_tokens``, ``global_pool``, ``fc_norm``, ``final_norm``, ``no_embed_class``, ``pos_embed``,
``pre_norm``, ``qkv_bias``, ``qk_norm``, ``rms_norm``, ``in_chans``, ``dynamic_img_size``), and these:

    attn_type       "eva" (no bias for k; the biases of q and v are separate tensors) or "rope" (an ordinary bias)
    qkv_fused       one projection (the default) or three. It is an option only if the format has both forms, since an
                    invariant compares them. A family with one form passes it to these functions itself
    num_kv_heads    number of heads of k and v, if fewer than those of q; needs three projections
    scale_attn      a norm between attention and its projection
    layer_scale     none, True, or "attn" for the attention branch only
    post_norm       blocks whose norms come after attention and MLP (without layer scale)
    swiglu          none, "packed" (gate and value in one weight) or "split"
    scale_mlp       a norm inside the MLP; timm does not pack a SwiGLU with a norm
    rope            none, "cat", "mixed" (learnt frequencies, a parameter) or "dinov3"
    rope_xy, rope_offset, rope_temperature, rope_half, ref_grid    its coordinates (``ref_grid`` 0: not scaled)
    pool_heads, pool_mlp_ratio    those of attention pooling, if they differ from the blocks'
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..cases.case import Geometry
from . import asks
from .base import Arch, Family, Shapes
from .shapes import pools_by_average
from .vit import num_prefix_tokens, tokens


def shapes(arch: Arch, geometry: Geometry) -> Shapes:
    """Tensor shapes of a checkpoint in Eva's layout, written from the layout's definition and not read from timm."""
    dim, heads = arch["embed_dim"], arch["num_heads"]
    hidden, head_dim = int(dim * arch["mlp_ratio"]), dim // heads
    kv_dim = head_dim * (arch.get("num_kv_heads") or heads)
    fused, bias, ordinary = arch.get("qkv_fused", True), arch.get("qkv_bias", True), arch.get("attn_type") == "rope"
    out = tokens(arch, geometry)
    if arch.get("rope") == "mixed":
        out["rope.freqs"] = (2, arch["depth"], heads, head_dim // 2)
    if arch.get("pre_norm"):
        out.norm("norm_pre")
    for i in range(arch["depth"]):
        attn, mlp = f"blocks.{i}.attn.", f"blocks.{i}.mlp."
        out.norm(f"blocks.{i}.norm1")
        if fused:
            out.linear(f"{attn}qkv", 3 * dim, dim, bias and ordinary)
            if bias and not ordinary:
                out[f"{attn}q_bias"] = out[f"{attn}v_bias"] = (dim,)
        else:
            out.linear(f"{attn}q_proj", dim, dim, bias)
            out.linear(f"{attn}k_proj", kv_dim, dim, bias and ordinary)
            out.linear(f"{attn}v_proj", kv_dim, dim, bias)
        if arch.get("qk_norm"):
            out.norm(f"{attn}q_norm", head_dim)
            out.norm(f"{attn}k_norm", head_dim)
        if arch.get("scale_attn"):
            out.norm(f"{attn}norm")
        out.linear(f"{attn}proj", dim, dim)
        out.norm(f"blocks.{i}.norm2")
        if arch.get("swiglu") == "split":
            out.linear(f"{mlp}fc1_g", hidden, dim)
            out.linear(f"{mlp}fc1_x", hidden, dim)
        else:
            out.linear(f"{mlp}fc1", 2 * hidden if arch.get("swiglu") else hidden, dim)
        if arch.get("scale_mlp"):
            out.norm(f"{mlp}norm", hidden)
        out.linear(f"{mlp}fc2", dim, hidden)
        for branch in {True: (1, 2), "attn": (1,)}.get(arch.get("layer_scale"), ()):
            out[f"blocks.{i}.gamma_{branch}"] = (dim,)
    if arch.get("final_norm", True):
        out.norm("fc_norm" if pools_by_average(arch) else "norm")
    if arch.get("global_pool") == "map":
        out.attention_pool(int(dim * (arch.get("pool_mlp_ratio") or arch["mlp_ratio"])))
    if arch["num_classes"]:
        out.linear("head", arch["num_classes"], dim)
    return out


def model_kwargs(arch: Arch, eps: float = 1e-6) -> dict[str, Any]:
    """Arguments of timm's Eva constructor for ``arch``, without the geometry.

    An argument that old releases lack is left out if it has its default value.
    """
    return {k: v for k, v in created_kwargs(arch, eps).items() if k not in _LATER or v != _LATER[k](arch)}


# Arguments that Eva got after 0.9.0, and their default values.
_LATER = {
    "attn_type": lambda arch: "eva",
    "use_fc_norm": lambda arch: arch.get("global_pool", "token") == "avg",
    "use_post_transformer_norm": lambda arch: not (arch.get("final_norm", True) and pools_by_average(arch)),
    "rope_type": lambda arch: "cat",
    "rope_grid_indexing": lambda arch: "ij",
    "rope_grid_offset": lambda arch: 0.0,
    "rope_temperature": lambda arch: 10000.0,
    "attn_pool_num_heads": lambda arch: None,
    "attn_pool_mlp_ratio": lambda arch: None,
    "num_kv_heads": lambda arch: None,
}


def created_kwargs(arch: Arch, eps: float = 1e-6) -> dict[str, Any]:
    """The same with every argument, since the functions of registered models set some of them to other values."""
    from torch import nn

    split, scaled = arch.get("swiglu") == "split", arch.get("scale_mlp", False)
    by_average, final = pools_by_average(arch), arch.get("final_norm", True)
    side, scale = arch.get("ref_grid"), arch.get("layer_scale")
    kwargs = {
        "embed_dim": arch["embed_dim"],
        "depth": arch["depth"],
        "num_heads": arch["num_heads"],
        "num_kv_heads": arch.get("num_kv_heads"),
        "mlp_ratio": arch["mlp_ratio"],
        "num_classes": arch["num_classes"],
        "in_chans": arch.get("in_chans", 3),
        "class_token": arch["class_token"],
        "num_reg_tokens": arch["reg_tokens"],
        "global_pool": arch.get("global_pool", "token"),
        "attn_type": arch.get("attn_type", "eva"),
        "qkv_fused": arch.get("qkv_fused", True),
        "qkv_bias": arch.get("qkv_bias", True),
        "qk_norm": arch.get("qk_norm", False),
        "scale_attn_inner": arch.get("scale_attn", False),
        "swiglu_mlp": bool(arch.get("swiglu")),
        "swiglu_align_to": int(
            split and not scaled
        ),  # timm splits a SwiGLU whose width is to be aligned; 1 aligns nothing
        "scale_mlp": scaled,
        "init_values": 1e-5 if scale else None,
        "attn_only_layer_scale": scale == "attn",
        "norm_layer": ("timm.layers:RmsNorm", {"eps": eps}) if arch.get("rms_norm") else partial(nn.LayerNorm, eps=eps),
        "no_embed_class": arch.get("no_embed_class", False),
        "use_abs_pos_emb": arch.get("pos_embed") != "none",
        "use_rot_pos_emb": bool(arch.get("rope")),
        "rope_type": arch.get("rope") or "cat",
        "rope_grid_indexing": "xy" if arch.get("rope_xy") else "ij",
        "rope_grid_offset": float(arch.get("rope_offset", 0)),
        "rope_temperature": float(arch.get("rope_temperature", 10000)),
        "rope_rotate_half": arch.get("rope_half", False),
        "ref_feat_shape": (side, side) if side else None,
        "use_post_norm": arch.get("post_norm", False),
        "use_pre_transformer_norm": arch.get("pre_norm", False),
        "use_post_transformer_norm": final and not by_average,
        "use_fc_norm": final and by_average,
        "attn_pool_num_heads": arch.get("pool_heads"),
        "attn_pool_mlp_ratio": arch.get("pool_mlp_ratio"),
        "dynamic_img_size": arch.get("dynamic_img_size", False),
    }
    if arch.get(
        "use_naflex"
    ):  # a NaFlexViT has no such norms, and derives concatenated frequencies from use_rot_pos_emb
        kwargs = {k: v for k, v in kwargs.items() if (k, v) not in (("use_post_norm", False), ("rope_type", "cat"))}
    return kwargs


# A family whose models are Evas, described by the functions above.
family = partial(
    Family,
    shapes=shapes,
    num_prefix_tokens=num_prefix_tokens,
    model_kwargs=model_kwargs,
    module="eva",
    model_class="Eva",
    asks=asks.eva,
)
