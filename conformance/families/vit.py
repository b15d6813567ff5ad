"""Option strategies, tensor shapes and constructor arguments that the Vision Transformer families share."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Geometry
from . import asks
from .base import Arch, Family, Shapes
from .shapes import Layout, pools_by_average

# Hypothesis shrinks towards the first element, so the simplest choice comes first everywhere.
ACTIVATIONS = st.sampled_from(["gelu", "quick_gelu"])


def architectures(
    *,
    class_token: st.SearchStrategy[bool] = st.just(True),
    reg_tokens: st.SearchStrategy[int] = st.just(0),
    num_classes: st.SearchStrategy[int] = st.integers(0, 5),
    mlp_ratio: st.SearchStrategy[int] = st.sampled_from([2, 1, 4]),
    num_heads: st.SearchStrategy[int] = st.sampled_from([2, 1, 4]),
    **options: st.SearchStrategy[Any],
) -> st.SearchStrategy[dict[str, Any]]:
    """Strategy for tiny architectures: embed_dim 8 to 48, depth 1 or 2, 1 to 4 heads, and the given options."""

    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        heads = draw(num_heads, label="num_heads")
        head_dim = draw(st.sampled_from([4, 8, 12] if heads > 1 else [8, 12]), label="head_dim")
        arch = {
            "embed_dim": heads * head_dim,
            "depth": draw(st.sampled_from([1, 1, 2]), label="depth"),
            "num_heads": heads,
            "mlp_ratio": draw(mlp_ratio, label="mlp_ratio"),
            "class_token": draw(class_token, label="class_token"),
            "reg_tokens": draw(reg_tokens, label="reg_tokens"),
            "num_classes": draw(num_classes, label="num_classes"),
        }
        return arch | {name: draw(strategy, label=name) for name, strategy in options.items()}

    return build()


def num_prefix_tokens(arch: Arch) -> int:
    """Number of class, distillation and register tokens."""
    return int(arch["class_token"]) + int(arch.get("dist_token", False)) + arch["reg_tokens"]


def tokens(arch: Arch, geometry: Geometry) -> Layout:
    """Shapes of the tensors that make the tokens: prefix tokens, positions, patch embedding."""
    dim = arch["embed_dim"]
    out = Layout(dim, rms=arch.get("rms_norm", False))
    if arch["class_token"]:
        out["cls_token"] = (1, 1, dim)
    if arch.get("dist_token"):
        out["dist_token"] = (1, 1, dim)
    if arch["reg_tokens"]:
        out["reg_token"] = (1, arch["reg_tokens"], dim)
    if arch.get("pos_embed") != "none":
        rows = 0 if arch.get("no_embed_class") else num_prefix_tokens(arch)
        out["pos_embed"] = (1, geometry.tokens + rows, dim)
    out["patch_embed.proj.weight"] = (dim, arch.get("in_chans", 3), *geometry.patch_size)
    if not arch.get("pre_norm"):
        out["patch_embed.proj.bias"] = (dim,)
    return out


def shapes(arch: Arch, geometry: Geometry) -> Shapes:
    """Tensor shapes of a checkpoint in timm's layout, written from the layout's definition and not read from timm."""
    dim, hidden = arch["embed_dim"], int(arch["embed_dim"] * arch["mlp_ratio"])
    bias = arch.get("proj_bias", True)
    out = tokens(arch, geometry)
    if arch.get("pre_norm"):
        out.norm("norm_pre")
    if arch.get("embed_norm"):
        out.norm("patch_embed.norm")
    for i in range(arch["depth"]):
        block = f"blocks.{i}."
        out.norm(f"{block}norm1")
        out.linear(f"{block}attn.qkv", 3 * dim, dim, arch.get("qkv_bias", True))
        if arch.get("qk_norm"):
            out.norm(f"{block}attn.q_norm", dim // arch["num_heads"])
            out.norm(f"{block}attn.k_norm", dim // arch["num_heads"])
        if arch.get("sub_norm"):
            out.norm(f"{block}attn.norm")
        out.linear(f"{block}attn.proj", dim, dim, bias)
        out.norm(f"{block}norm2")
        if arch.get("swiglu") == "split":
            out.linear(f"{block}mlp.fc1_g", hidden, dim, bias)
            out.linear(f"{block}mlp.fc1_x", hidden, dim, bias)
        else:
            out.linear(f"{block}mlp.fc1", hidden, dim)
        if arch.get("sub_norm"):
            out.norm(f"{block}mlp.norm", hidden)
        out.linear(f"{block}mlp.fc2", dim, hidden // 2 if arch.get("swiglu") is True else hidden, bias)
        if arch.get("layer_scale"):
            out[f"{block}ls1.gamma"] = out[f"{block}ls2.gamma"] = (dim,)
    if arch.get("final_norm", True):
        out.norm("fc_norm" if pools_by_average(arch) else "norm")
    if arch.get("global_pool") == "map":
        out.attention_pool(hidden)
    if arch["num_classes"]:
        out.linear("head", arch["num_classes"], dim)
        if arch.get("dist_token"):
            out.linear("head_dist", arch["num_classes"], dim)
    return out


# Constructor arguments with the same name as the option, and their default values.
_PLAIN_OPTIONS = {
    "no_embed_class": False,
    "pre_norm": False,
    "qkv_bias": True,
    "proj_bias": True,
    "qk_norm": False,
    "final_norm": True,
    "dynamic_img_size": False,
    "in_chans": 3,
    "pos_embed": "learn",
}


def model_kwargs(arch: Arch, eps: float = 1e-6) -> dict[str, Any]:
    """Arguments of timm's VisionTransformer constructor for ``arch``, without the geometry."""
    from torch import nn

    kwargs: dict[str, Any] = {
        "embed_dim": arch["embed_dim"],
        "depth": arch["depth"],
        "num_heads": arch["num_heads"],
        "mlp_ratio": arch["mlp_ratio"],
        "num_classes": arch["num_classes"],
        "class_token": arch["class_token"],
        "global_pool": arch.get("global_pool", "token"),
        "fc_norm": pools_by_average(arch),
        "reg_tokens": arch["reg_tokens"],
        "init_values": 1e-5 if arch.get("layer_scale") else 0.0,  # create_model drops arguments that are None
        "norm_layer": partial(nn.LayerNorm, eps=eps),
        "act_layer": {
            "gelu": nn.GELU,
            "quick_gelu": "timm.layers:QuickGELU",
            "gelu_tanh": partial(nn.GELU, approximate="tanh"),
        }[arch.get("act", "gelu")],
    }
    kwargs |= {name: arch[name] for name, nothing in _PLAIN_OPTIONS.items() if arch.get(name, nothing) != nothing}
    # The functions of registered models set these arguments, so they are always given.
    kwargs |= {name: arch.get(name, False) for name in ("no_embed_class", "pre_norm")}
    kwargs["qkv_bias"] = arch.get("qkv_bias", True)
    if arch.get("sub_norm"):
        kwargs |= {"scale_attn_norm": True, "scale_mlp_norm": True}
    if arch.get("swiglu"):
        split = arch["swiglu"] == "split"
        kwargs |= {"mlp_layer": f"timm.layers:{'SwiGLU' if split else 'SwiGLUPacked'}", "act_layer": nn.SiLU}
    return kwargs


# A family whose models are plain VisionTransformers, described by the functions above.
family = partial(
    Family,
    shapes=shapes,
    num_prefix_tokens=num_prefix_tokens,
    model_kwargs=model_kwargs,
    asks=asks.vision_transformer,
)


def text_tower(dim: int = 8) -> Shapes:
    """Shapes of the tensors of a CLIP text tower and its loss, which lie beside the image tower."""
    return {
        "positional_embedding": (7, dim),
        "text_projection": (dim, dim),
        "logit_scale": (),
        "transformer.resblocks.0.ln_1.weight": (dim,),
        "transformer.resblocks.0.attn.in_proj_weight": (3 * dim, dim),
        "token_embedding.weight": (11, dim),
        "ln_final.weight": (dim,),
    }
