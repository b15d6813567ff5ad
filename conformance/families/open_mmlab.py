"""OpenMMLab's VisionTransformer (mmpretrain): a classifier's file, with an MLP or SwiGLU, and a backbone's alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import vit
from .base import NO_RELEASE

_SOURCE = "open-mmlab/mmpretrain mmpretrain/models/backbones/vision_transformer.py"


@st.composite
def _architectures(draw: st.DrawFn, /, **options: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The class token after the norm, or the mean of the patches: with a norm after it or before it."""
    pool = draw(st.sampled_from(["token", "avg"]), label="global_pool")
    return draw(
        vit.architectures(
            class_token=st.just(True) if pool == "token" else st.booleans(),
            global_pool=st.just(pool),
            fc_norm=st.booleans() if pool == "avg" else st.just(False),
            pre_norm=st.booleans(),
            layer_scale=st.booleans(),
            qkv_bias=st.sampled_from([True, True, False]),
            **options,
        )
    )


def _tags(case: Case) -> frozenset[str]:
    norm = "norm-after-pool" if case.arch["fc_norm"] else "norm-before-pool"
    return frozenset(
        {f"pool-{case.arch['global_pool']}", norm} | ({"layer-scale"} if case.arch["layer_scale"] else set())
    )


OPEN_MMLAB = vit.family(
    name="open_mmlab",
    source=f"{_SOURCE}; mmpretrain/models/heads/vision_transformer_head.py",
    known_since=NO_RELEASE,
    architectures=_architectures(),
    models=("vit_*_patch16_224.augreg*", "vit_base_patch16_224.mae"),
    wrappers=("state_dict", "bare"),
    tags=_tags,
    own_regimes=frozenset({"pool-token", "pool-avg", "norm-after-pool", "norm-before-pool", "layer-scale"}),
    unreachable=frozenset({"prefix-1+R"}),
    weight=0.1,
)

OPEN_MMLAB_SWIGLU = replace(
    OPEN_MMLAB,
    name="open_mmlab_swiglu",
    source=f"{_SOURCE}; mmpretrain/models/utils/swiglu_ffn.py",
    architectures=_architectures(swiglu=st.just(True)),
    models=("vit_giant_*_dinov2.*",),
)

OPEN_MMLAB_BACKBONE = replace(
    OPEN_MMLAB,
    name="open_mmlab_backbone",
    source=_SOURCE,
    architectures=_architectures(num_classes=st.just(0)),
)

FAMILIES = (OPEN_MMLAB, OPEN_MMLAB_SWIGLU, OPEN_MMLAB_BACKBONE)
