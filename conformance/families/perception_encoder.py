"""Perception Encoder: PE-Core's image tower, and PE-Lang and PE-Spatial, which end after their last block."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from . import eva_model, vit

_SOURCE = "facebookresearch/perception_models core/vision_encoder/pe.py"


@st.composite
def _architectures(draw: st.DrawFn, /, **options: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Options of these models. A class token shifts the rotary positions of the patches by one; columns come before rows."""
    class_token = draw(st.sampled_from([True, True, False]), label="class_token")
    fixed = {"attn_type": "rope", "pre_norm": True, "rope": "cat", "rope_xy": True, "rope_offset": int(class_token)}
    options |= {name: st.just(value) for name, value in fixed.items()}
    return draw(vit.architectures(class_token=st.just(class_token), **options))


def _layer_scale(name: str) -> dict[str, Any]:
    """Whether a PE-Lang or PE-Spatial model has layer scale, which differs from model to model."""
    return {"layer_scale": name.startswith(("vit_pe_lang_", "vit_pe_spatial_gigantic_"))}


PERCEPTION_ENCODER = eva_model.family(
    name="perception_encoder",
    source=_SOURCE,
    known_since="1.0.16",
    architectures=_architectures(
        num_classes=st.integers(1, 5),
        global_pool=st.just("map"),
        pool_heads=st.sampled_from([1, 2, 4]),
        pool_mlp_ratio=st.sampled_from([4, 2, 1]),
    ),
    models=("vit_pe_core_*",),
    model_kwargs=partial(eva_model.model_kwargs, eps=1e-5),
    implied=lambda arch: frozenset({"head.bias"}),
    foreign=lambda arch: vit.text_tower(),
    in_forward=(),
    unreachable=frozenset({"prefix-1+R"}),
    weight=0.22,
)

PERCEPTION_ENCODER_BARE = eva_model.family(
    name="perception_encoder_bare",
    source=_SOURCE,
    known_since="1.0.16",
    architectures=_architectures(
        num_classes=st.just(0),
        global_pool=st.just("avg"),
        final_norm=st.just(False),
        layer_scale=st.booleans(),
    ),
    by_model=_layer_scale,
    models=("vit_pe_lang_*", "vit_pe_spatial_*"),
    model_kwargs=partial(eva_model.model_kwargs, eps=1e-5),
    in_forward=(),
    unreachable=frozenset({"prefix-1+R"}),
    weight=0.22,
)

FAMILIES = (PERCEPTION_ENCODER, PERCEPTION_ENCODER_BARE)
