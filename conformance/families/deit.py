"""DeiT, its distilled form, and DeiT-III with its own names for layer scale."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from . import asks, vit

# Training checkpoints of facebookresearch/deit are {"model": ...}.
_WRAPPERS = ("model", "bare", "model.state_dict")

DEIT = vit.family(
    name="deit",
    source="facebookresearch/deit models.py",
    shares_format="timm_native",
    known_since="0.9.0",
    architectures=vit.architectures(),
    filter_kwargs=lambda arch: {"adapt_layer_scale": True},
    asks=asks.pre_norm,
    module="deit",
    models=("deit_*_patch16_*",),
    not_models=("*_distilled_*",),
    wrappers=_WRAPPERS,
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.22,
)

DEIT_DISTILLED = replace(
    DEIT,
    name="deit_distilled",
    source="facebookresearch/deit models.py: DistilledVisionTransformer",
    shares_format="",
    architectures=vit.architectures(dist_token=st.just(True)),
    model_class="VisionTransformerDistilled",
    asks=asks.blocks,
    models=("deit_*_distilled_*",),
    not_models=(),
    unreachable=frozenset({"prefix-0", "prefix-1"}),
    weight=0.22,
)

DEIT3 = replace(
    DEIT,
    name="deit3",
    source="facebookresearch/deit models_v2.py",
    shares_format="",
    architectures=vit.architectures(no_embed_class=st.just(True), layer_scale=st.just(True)),
    models=("deit3_*",),
    not_models=(),
    weight=0.22,
)

FAMILIES = (DEIT, DEIT_DISTILLED, DEIT3)
