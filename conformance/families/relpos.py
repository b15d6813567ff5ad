"""timm's Vision Transformers with relative positions, in tables or in a small network."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case, Geometry
from . import asks, vit
from .base import Arch, Family, Shapes, Windows

_TABLE = "relative_position_bias_table"
_HIDDEN = 8


@st.composite
def _architectures(draw: st.DrawFn) -> dict[str, Any]:
    class_token = draw(st.booleans(), label="class_token")
    post_norm = draw(st.sampled_from([False, False, True]), label="post_norm")
    options = vit.architectures(
        class_token=st.just(class_token),
        global_pool=st.sampled_from(["avg", "token"] if class_token else ["avg"]),
        fc_norm=st.booleans(),
        rel_pos=st.sampled_from(["bias", "bias", "mlp"]),
        shared=st.booleans(),
        post_norm=st.just(post_norm),
        layer_scale=st.just(False) if post_norm else st.booleans(),
        qkv_bias=st.booleans(),
        pos_embed=st.just("none"),
    )
    return draw(options)


def _owners(arch: Arch) -> list[str]:
    """Names of the modules that hold relative positions."""
    return ["shared_rel_pos"] if arch["shared"] else [f"blocks.{i}.attn.rel_pos" for i in range(arch["depth"])]


def _tables(arch: Arch, geometry: Geometry) -> Windows:
    names = [f"{owner}.{_TABLE}" for owner in _owners(arch)] if arch["rel_pos"] == "bias" else []
    return dict.fromkeys(names, geometry.grid_size)


def _shapes(arch: Arch, geometry: Geometry) -> Shapes:
    out, (h, w), heads = vit.shapes(arch, geometry), geometry.grid_size, arch["num_heads"]
    rows = (2 * h - 1) * (2 * w - 1) + 3 * vit.num_prefix_tokens(arch)
    out |= dict.fromkeys(_tables(arch, geometry), (rows, heads))
    if arch["rel_pos"] == "mlp":
        for owner in _owners(arch):
            out |= {f"{owner}.mlp.fc1.weight": (_HIDDEN, 2), f"{owner}.mlp.fc1.bias": (_HIDDEN,)}
            out |= {f"{owner}.mlp.fc2.weight": (heads, _HIDDEN), f"{owner}.mlp.fc2.bias": (heads,)}
    return out


def _model_kwargs(arch: Arch) -> dict[str, Any]:
    from torch import nn

    kind = "ResPostRelPosBlock" if arch["post_norm"] else "RelPosBlock"
    return {
        **{name: arch[name] for name in ("embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes")},
        **{name: arch[name] for name in ("class_token", "global_pool", "fc_norm", "qkv_bias")},
        "init_values": 1e-5 if arch["layer_scale"] else 0.0,
        "rel_pos_type": arch["rel_pos"],
        "rel_pos_dim": _HIDDEN if arch["rel_pos"] == "mlp" else 0,
        "shared_rel_pos": arch["shared"],
        "block_fn": f"timm.models.vision_transformer_relpos:{kind}",
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "act_layer": nn.GELU,
    }


def _needs(case: Case) -> tuple[str, str] | None:
    """Constructors of earlier releases fail where there is a class token beside tables."""
    lacking = case.arch["rel_pos"] == "bias" and case.arch["class_token"]
    return ("0.9.6", "tables with rows for a class token") if lacking else None


def _tags(case: Case) -> frozenset[str]:
    shared = {"shared-positions"} if case.arch["shared"] else set()
    return frozenset({f"positions-{case.arch['rel_pos']}"} | shared)


RELPOS = Family(
    name="relpos",
    source="huggingface/pytorch-image-models timm/models/vision_transformer_relpos.py",
    known_since="0.9.0",
    architectures=_architectures(),
    shapes=_shapes,
    num_prefix_tokens=vit.num_prefix_tokens,
    model_kwargs=_model_kwargs,
    asks=lambda arch: asks.pools(arch, "avg", "token") + asks.depths(arch) + asks.flags(arch, qkv_bias=True),
    models=("vit_relpos_*", "vit_srelpos_*"),
    module="vision_transformer_relpos",
    model_class="VisionTransformerRelPos",
    wrappers=("bare",),
    square_grids="often",
    tables=_tables,
    needs=_needs,
    tags=_tags,
    own_regimes=frozenset({"positions-bias", "positions-mlp", "shared-positions"}),
    in_forward=(),
    unreachable=frozenset({"prefix-1+R", "wrapped"}),
    weight=0.22,
)

FAMILIES = (RELPOS,)
