"""Checkpoints that are loaded into a NaFlexViT: those of timm's VisionTransformer and Eva, its own, and RADIO's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases.case import FORWARD_DOORS, Case
from . import asks, eva_model, naflex_model, vit
from .base import Arch
from .eva import EVA_NATIVE
from .radio import RADIO
from .timm_native import TIMM_NATIVE

# -- classic Vision Transformers ---------------------------------------------------------------------------------------


@st.composite
def _architectures(draw: st.DrawFn, /, **options: st.SearchStrategy[Any]) -> dict[str, Any]:
    pool = draw(st.sampled_from(["token", "avg", "avg", "map"]), label="global_pool")
    # Whether attention pooling also reads prefix tokens is an option of the model, which a checkpoint does not hold.
    alone = pool == "map"
    base = vit.architectures(
        class_token=st.just(not alone) if pool != "avg" else st.booleans(),
        reg_tokens=st.just(0) if alone else st.integers(0, 3),
        global_pool=st.just(pool),
        no_embed_class=st.just(True),
        pre_norm=st.booleans(),
        qkv_bias=st.sampled_from([True, False]),
        qk_norm=st.sampled_from([False, False, True]),
        layer_scale=st.booleans(),
        act=vit.ACTIVATIONS,
        **options,
    )
    return draw(base)


NAFLEX_VIT = vit.family(
    name="naflex_vit",
    source="huggingface/pytorch-image-models timm/models/vision_transformer.py (into timm/models/naflexvit.py)",
    shares_format="timm_native",
    classic="timm_native",
    known_since="1.0.16",
    architectures=_architectures(
        embed_class=st.sampled_from([False, True, True]),
        in_chans=st.sampled_from([3, 3, 3, 3, 1, 4]),
        projection=naflex_model.PROJECTIONS,
    ),
    model_kwargs=naflex_model.model_kwargs,
    created_kwargs=naflex_model.created_kwargs,
    asks=asks.naflex,
    models=TIMM_NATIVE.models,
    not_models=TIMM_NATIVE.not_models,
    module="naflexvit",
    model_class="NaFlexVit",
    models_module="vision_transformer",
    wrappers=(
        "bare",
        "bare",
        "bare",
        "model",
    ),  # mostly bare: a release that opens no wrapper shows nothing else in a wrapped case
    stored=naflex_model.with_prefix_rows,
    canonical=naflex_model.canonical,
    square_grids="often",
    misread_tokens=naflex_model.misread_tokens,
    forward_arch=lambda case: {"no_embed_class": not case.arch["embed_class"]},
    needs=naflex_model.needs,
    tags=naflex_model.tags,
    own_regimes=naflex_model.REGIMES | {"class-and-registers"},
    in_forward=FORWARD_DOORS,
    weight=0.4,
)

# -- Evas --------------------------------------------------------------------------------------------------------------

_EVA_NAMES = {
    "num_reg_tokens": "reg_tokens",
    "scale_mlp": "scale_mlp_norm",
    "scale_attn_inner": "scale_attn_inner_norm",
    "ref_feat_shape": "rope_ref_feat_shape",
    "use_fc_norm": "fc_norm",
    "use_pre_transformer_norm": "pre_norm",
}
_EVA_ALONE = ("no_embed_class", "dynamic_img_size", "use_post_norm", "rope_type")


@st.composite
def _eva_architectures(draw: st.DrawFn) -> dict[str, Any]:
    return draw(EVA_NATIVE.architectures) | {
        "no_embed_class": True,
        "embed_class": draw(st.sampled_from([False, True, True]), label="embed_class"),
        "dynamic_img_size": False,
        "projection": draw(naflex_model.PROJECTIONS, label="projection"),
    }


def _eva_kwargs(arch: Arch) -> dict[str, Any]:
    """Eva's arguments by NaFlexViT's names."""
    eva = {k: v for k, v in eva_model.created_kwargs(arch).items() if k not in _EVA_ALONE}
    norms = eva.pop("use_post_transformer_norm"), eva["use_fc_norm"]
    positions, rotary = eva.pop("use_abs_pos_emb"), eva.pop("use_rot_pos_emb")
    kwargs = {_EVA_NAMES.get(name, name): value for name, value in eva.items()}
    own = {
        "final_norm": any(norms),
        "pos_embed": "learned" if positions else "none",
        "rope_type": "axial" if rotary else "none",
    }
    return kwargs | own | naflex_model.projection(arch)


def _eva_created_kwargs(arch: Arch) -> dict[str, Any]:
    """Arguments as a user of the Eva model writes them. The model derives the others from pooling and ``use_rot_pos_emb``."""
    classic = eva_model.created_kwargs({**arch, "no_embed_class": not arch["embed_class"]})
    said = {k: v for k, v in classic.items() if k not in ("use_post_norm", "use_post_transformer_norm", "rope_type")}
    return said | naflex_model.projection(arch) | asks.NAFLEX


NAFLEX_EVA = replace(
    NAFLEX_VIT,
    name="naflex_eva",
    source="huggingface/pytorch-image-models timm/models/eva.py (into timm/models/naflexvit.py)",
    shares_format="eva",
    classic="eva_native",
    known_since="1.0.18",
    architectures=_eva_architectures(),
    by_model=EVA_NATIVE.by_model,
    shapes=EVA_NATIVE.shapes,
    model_kwargs=_eva_kwargs,
    created_kwargs=_eva_created_kwargs,
    asks=asks.naflex,
    models=EVA_NATIVE.models,
    not_models=EVA_NATIVE.not_models,
    models_module="eva",
    in_forward=(),
    weight=0.4,
)

# -- its own -----------------------------------------------------------------------------------------------------------


NAFLEX_NATIVE = vit.family(
    name="naflex_native",
    source="huggingface/pytorch-image-models timm/models/naflexvit.py",
    known_since="1.0.16",
    architectures=_architectures(embed_class=st.just(False), projection=st.just("linear")),
    model_kwargs=naflex_model.model_kwargs,
    created_kwargs=lambda arch: naflex_model.model_kwargs(arch) | asks.NAFLEX,
    asks=asks.naflex,
    models=TIMM_NATIVE.models,
    not_models=TIMM_NATIVE.not_models,
    module="naflexvit",
    model_class="NaFlexVit",
    models_module="vision_transformer",
    wrappers=("bare",),
    square_patch="resampled",
    grid_stored=True,
    stored=naflex_model.with_position_grid,
    canonical=naflex_model.canonical,
    undecidable=naflex_model.undecidable_patch,
    forward_arch=lambda case: {"patch_size": case.source.patch_size},
    unreachable=frozenset({"wrapped"}),
    in_forward=FORWARD_DOORS,
    weight=0.22,
)


def _registered_kwargs(arch: Arch) -> dict[str, Any]:
    """Arguments without a grid, which :attr:`Family.more_sizes` gives: these models have one of 16x16 unless they are told."""
    return {k: v for k, v in naflex_model.model_kwargs(arch).items() if k != _GRID_SIZE}


_GRID_SIZE = "pos_embed_grid_size"

NAFLEX_REGISTERED = replace(
    NAFLEX_NATIVE,
    name="naflex_registered",
    shares_format="naflex_native",
    created_kwargs=_registered_kwargs,
    more_sizes=lambda geometry: {_GRID_SIZE: geometry.grid_size},
    models=("naflexvit_*",),
    not_models=("*_radio_*", "*_parfac_*"),  # a grid of 128x128 positions; a table for each axis
    models_module="",
    in_forward=(),
    weight=0.15,
)

# -- RADIO -------------------------------------------------------------------------------------------------------------


def _tags(case: Case) -> frozenset[str]:
    prefix = vit.num_prefix_tokens(case.arch)
    return frozenset({"counts-mislead"} if case.source.tokens < prefix else ())


@st.composite
def _radio_architectures(draw: st.DrawFn) -> dict[str, Any]:
    return draw(RADIO.architectures) | {"projection": "linear"}


NAFLEX_RADIO = replace(
    RADIO,
    name="naflex_radio",
    source="NVlabs/RADIO radio/vit_patch_generator.py (into timm/models/naflexvit.py)",
    shares_format="radio",
    classic="radio",
    architectures=_radio_architectures(),
    model_kwargs=naflex_model.model_kwargs,
    # The loader gets no arguments: the model itself knows how it aligns corners.
    by_model=lambda name: {"align_corners": False},
    filter_kwargs=lambda arch: {},
    module="naflexvit",
    model_class="NaFlexVit",
    models_module="vision_transformer",
    tags=_tags,
    own_regimes=frozenset({"counts-mislead"}),
    # Registered models keep RADIO's whole grid of 128x128 tokens for every image size. Creating one for each case is too slow.
    containers=("memory",),
    wrappers=NAFLEX_VIT.wrappers,
    square_grids="always",
    canonical=naflex_model.canonical,
    unreachable=RADIO.unreachable
    | {"safetensors", "pth", "in-chans-1", "in-chans-4", "classes-0", "classes-other", "asked"}
    | {"destination-grid-non-square", "grid-mixed", "equal-count-other-shape"},
    weight=0.22,
)


FAMILIES = (NAFLEX_VIT, NAFLEX_EVA, NAFLEX_NATIVE, NAFLEX_REGISTERED, NAFLEX_RADIO)
