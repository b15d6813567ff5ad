"""Checkpoints on their way into a NaFlexViT: classic ones of timm's VisionTransformer and Eva, its own, RADIO's, big_vision's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases import Case
from . import eva_model, naflex_model, vit
from .base import KERNEL, Arch, State
from .eva import EVA_NATIVE
from .google_npz import BIG_VISION
from .radio import RADIO
from .timm_native import TIMM_NATIVE

# -- classic Vision Transformers ---------------------------------------------------------------------------------------


@st.composite
def _architectures(draw: st.DrawFn, **options: st.SearchStrategy[Any]) -> dict[str, Any]:
    pool = draw(st.sampled_from(["token", "avg", "map"]), label="global_pool")
    # Whether attention pooling reads prefix tokens too is an option of the model, not of its checkpoint.
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


def _created_kwargs(arch: Arch) -> dict[str, Any]:
    classic = vit.model_kwargs({**arch, "no_embed_class": not arch["embed_class"]})
    return classic | naflex_model.projection(arch) | naflex_model.NAFLEX


NAFLEX_VIT = vit.family(
    name="naflex_vit",
    source="huggingface/pytorch-image-models timm/models/vision_transformer.py (into timm/models/naflexvit.py)",
    shares_format="timm_native",
    classic="timm_native",
    first_release="1.0.16",
    architectures=_architectures(
        embed_class=st.booleans(), in_chans=st.sampled_from([3, 3, 3, 3, 1, 4]), projection=naflex_model.PROJECTIONS
    ),
    model_kwargs=naflex_model.model_kwargs,
    created_kwargs=_created_kwargs,
    models=TIMM_NATIVE.models,
    not_models=TIMM_NATIVE.not_models,
    module="naflexvit",
    model_class="NaFlexVit",
    models_module="vision_transformer",
    wrappers=("bare", "bare", "bare", "model"),  # seldom wrapped: where no wrapper is opened, nothing else can be seen
    stored=naflex_model.with_rows,
    canonical=naflex_model.canonical,
    misread_tokens=naflex_model.misread_tokens,
    forward_arch=lambda case: {"no_embed_class": not case.arch["embed_class"]},
    needs=naflex_model.needs,
    tags=naflex_model.tags,
    own_regimes=naflex_model.REGIMES,
    weight=0.22,
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
        "embed_class": draw(st.booleans(), label="embed_class"),
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
    """As a user of the Eva model says it; what follows from the pooling and from ``use_rot_pos_emb`` is left to the model."""
    classic = eva_model.created_kwargs({**arch, "no_embed_class": not arch["embed_class"]})
    said = {k: v for k, v in classic.items() if k not in ("use_post_norm", "use_post_transformer_norm", "rope_type")}
    return said | naflex_model.projection(arch) | naflex_model.NAFLEX


NAFLEX_EVA = replace(
    NAFLEX_VIT,
    name="naflex_eva",
    source="huggingface/pytorch-image-models timm/models/eva.py (into timm/models/naflexvit.py)",
    shares_format="eva",
    classic="eva_native",
    first_release="1.0.18",
    architectures=_eva_architectures(),
    by_model=EVA_NATIVE.by_model,
    shapes=EVA_NATIVE.shapes,
    model_kwargs=_eva_kwargs,
    created_kwargs=_eva_created_kwargs,
    models=EVA_NATIVE.models,
    not_models=EVA_NATIVE.not_models,
    models_module="eva",
    weight=0.22,
)

# -- its own -----------------------------------------------------------------------------------------------------------


def _own(case: Case, state: State) -> State:
    """Positions as the grid they are stored as."""
    return state | {naflex_model.GRID: state[naflex_model.GRID].unflatten(1, case.source.grid_size)}


def _undecidable_patch(case: Case) -> str | None:
    """The columns of a linear kernel do not say the patch's height and width."""
    (h, w), (new_h, new_w) = case.source.patch_size, case.destination.patch_size
    for asked in {3, case.in_chans or 3}:
        if h * w * 3 == new_h * new_w * asked and (h, w, 3) != (new_h, new_w, asked):
            return "a linear kernel with as many columns as the model's, of another patch"
    return None if h == w or (h, w) == (new_h, new_w) else "a linear kernel of a non-square patch"


NAFLEX_NATIVE = vit.family(
    name="naflex_native",
    source="huggingface/pytorch-image-models timm/models/naflexvit.py",
    first_release="1.0.16",
    architectures=_architectures(embed_class=st.just(False), projection=st.just("linear")),
    model_kwargs=naflex_model.model_kwargs,
    created_kwargs=lambda arch: naflex_model.model_kwargs(arch) | naflex_model.NAFLEX,
    models=TIMM_NATIVE.models,
    not_models=TIMM_NATIVE.not_models,
    module="naflexvit",
    model_class="NaFlexVit",
    models_module="vision_transformer",
    wrappers=("bare",),
    square_patch="resampled",
    grid_stored=True,
    stored=_own,
    canonical=naflex_model.canonical,
    undecidable=_undecidable_patch,
    forward_arch=lambda case: {"patch_size": case.source.patch_size},
    unreachable=frozenset({"wrapped"}),
    weight=0.22,
)

# -- RADIO and big_vision ----------------------------------------------------------------------------------------------


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
    # The loader is told nothing: how a model aligns corners is the model's own matter.
    by_model=lambda name: {"align_corners": False},
    filter_kwargs=lambda arch: {},
    module="naflexvit",
    model_class="NaFlexVit",
    models_module="vision_transformer",
    tags=_tags,
    own_regimes=frozenset({"counts-mislead"}),
    # Registered models keep RADIO's whole grid, 128 tokens a side, whatever the image: too large to create one a case.
    containers=("memory",),
    wrappers=NAFLEX_VIT.wrappers,
    square_grids=True,
    canonical=naflex_model.canonical,
    unreachable=RADIO.unreachable
    | {"safetensors", "pth", "in-chans-1", "in-chans-4", "classes-0", "classes-other"}
    | {"destination-grid-non-square", "grid-mixed", "equal-count-other-shape"},
    weight=0.22,
)


@st.composite
def _npz_architectures(draw: st.DrawFn) -> dict[str, Any]:
    return draw(BIG_VISION.architectures) | {
        "embed_class": False,
        "projection": draw(naflex_model.PROJECTIONS, label="projection"),
    }


NAFLEX_NPZ = replace(
    BIG_VISION,
    name="naflex_npz",
    source="google-research/big_vision big_vision/models/vit.py (into timm/models/naflexvit.py)",
    shares_format="big_vision",
    classic="big_vision",
    first_release="1.0.29",
    architectures=_npz_architectures(),
    model_kwargs=naflex_model.model_kwargs,
    created_kwargs=_created_kwargs,
    module="naflexvit",
    model_class="NaFlexVit",
    models_module="vision_transformer",
    canonical=naflex_model.canonical,
    tags=lambda case: BIG_VISION.tags(case) | naflex_model.tags(case),
    own_regimes=BIG_VISION.own_regimes | naflex_model.REGIMES - {"prefix-rows"},
    weight=0.2,
)


def _dense(case: Case, state: State) -> State:
    """A dense patch kernel over (row, column, channel), and positions as a grid; one of a single row looks like a list."""
    kernel = state[KERNEL].permute(0, 2, 3, 1).flatten(1)
    return (state if case.source.grid_size[0] == 1 else _own(case, state)) | {KERNEL: kernel}


def _undecidable_dense(case: Case) -> str | None:
    """As for any linear kernel. A grid of one row has no form of its own; of one column neither, once the two are exchanged."""
    if min(case.source.grid_size) == 1 < max(case.source.grid_size):
        return "a grid of one row is stored like a list of tokens"
    return _undecidable_patch(case)


NAFLEX_NPZ_DENSE = replace(
    NAFLEX_NPZ,
    name="naflex_npz_dense",
    source="google-research/big_vision big_vision/models/proj/image_text/naflex_vit.py",
    classic="",
    architectures=_npz_architectures().filter(lambda arch: not arch["class_token"]),
    created_kwargs=lambda arch: naflex_model.model_kwargs(arch) | naflex_model.NAFLEX,
    square_patch="resampled",
    grid_stored=True,
    stored=_dense,
    undecidable=_undecidable_dense,
    forward_arch=lambda case: {"pre_logits": False, "patch_size": case.source.patch_size},
    own_regimes=NAFLEX_NPZ.own_regimes - {"pool-token"},
    unreachable=BIG_VISION.unreachable | {"prefix-1"},
    weight=0.15,
)

FAMILIES = (NAFLEX_VIT, NAFLEX_EVA, NAFLEX_NATIVE, NAFLEX_RADIO, NAFLEX_NPZ, NAFLEX_NPZ_DENSE)
