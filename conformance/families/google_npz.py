"""Google's ``.npz`` files: the original Vision Transformer, its ResNet hybrids, and big_vision with pools, scan and prefixes.

timm reads them in ``VisionTransformer.load_pretrained``, straight into a model's parameters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from ..cases.case import NPZ, Case
from . import asks, hybrid, vit
from .base import Arch, Shapes

if TYPE_CHECKING:
    from ..reference.stems import Constants

_NEVER = frozenset({"safetensors", "pth", "memory"})


def _no_pool_norm(**more: st.SearchStrategy) -> st.SearchStrategy[dict]:
    """Options of these models. flax's ``gelu`` is the tanh approximation, and the encoder's norm comes before pooling."""
    return vit.architectures(act=st.just("gelu_tanh"), fc_norm=st.just(False), **more)


@st.composite
def _original(draw: st.DrawFn) -> dict:
    token = draw(st.sampled_from([True, True, False]), label="classifier token")
    return draw(_no_pool_norm(class_token=st.just(token), global_pool=st.just("token" if token else "avg")))


@st.composite
def _big_vision(draw: st.DrawFn) -> dict:
    pool = draw(st.sampled_from(["map", "avg", "token", "map"]), label="pool_type")
    return draw(
        _no_pool_norm(
            class_token=st.just(pool == "token"),
            no_embed_class=st.just(True),
            global_pool=st.just(pool),
        )
    )


def _training_state(arch: Arch) -> Shapes:
    return {"/opt/state/step": (), "/opt/state/param_states/embedding/bias/momentum": (arch["embed_dim"],)}


def _text_tower(arch: Arch) -> Shapes:
    return {"/params/txt/Embed_0/embedding": (11, 8), "/params/t": (1,), "/params/b": (1,)}


GOOGLE_NPZ = vit.family(
    name="google_npz",
    source="google-research/vision_transformer vit_jax/models_vit.py",
    known_since="0.9.0",
    architectures=_original(),
    asks=asks.pre_norm,  # naflex_npz* are such files in a NaFlexViT
    models=("vit_*_patch*.augreg_in21k*", "vit_*_patch*.orig_in21k*", "vit_*_patch*.sam_in1k"),
    foreign=_training_state,
    wrappers=("bare", "opt/target/"),
    containers=NPZ,
    square_grids="often",  # timm takes other grids for squares
    forward_arch=lambda case: {"pre_logits": False},
    tags=lambda case: frozenset({"pre-logits"} if not case.arch["num_classes"] else ()),
    own_regimes=frozenset({"pre-logits"}),
    unreachable=_NEVER | {"prefix-1+R"},
    weight=0.3,
)

GOOGLE_NPZ_STEM = replace(
    GOOGLE_NPZ,
    name="google_npz_stem",
    source="google-research/vision_transformer vit_jax/models_vit.py (a ResNet's root before the patches)",
    architectures=_no_pool_norm(),
    by_model=lambda name: {"stages": 0},
    shapes=hybrid.resnet_shapes,
    model_kwargs=hybrid.resnet_kwargs,
    created_kwargs=hybrid.resnet_created_kwargs,
    module="vision_transformer_hybrid",
    models=("vit_*_r_s16_*",),
    first_conv=hybrid.resnet_first_conv,
    forward_arch=lambda case: {"pre_logits": False, "stem_constants": _timm_constants()},
    stride=hybrid.stem_stride,
    max_patch=8,
    unreachable=_NEVER | {"prefix-0", "prefix-1+R"},
    in_forward=hybrid.UNPADDED,
    weight=0.22,
)

GOOGLE_NPZ_RESNET = replace(
    GOOGLE_NPZ_STEM,
    name="google_npz_resnet",
    source="google-research/vision_transformer vit_jax/models_resnet.py",
    by_model=lambda name: {"stages": 2, "units": 2},
    models=("vit_*_r26_*", "vit_*_r50_*"),
    undecidable=hybrid.without_features,
    unreachable=GOOGLE_NPZ_STEM.unreachable | {"door-own-sizes"},  # a stem of two stages has half of their stride
    weight=0.12,
)


def _timm_constants() -> Constants:
    """timm's constants against division by zero. They differ from flax's, which is a difference of models, not of loaders."""
    from ..reference.stems import TIMM

    return TIMM


_SINCE = {
    "params/img/": "0.9.8",
    "params/+scan": "1.0.3",
    "params/img/+scan": "1.0.3",
    "bare": "1.0.29",
    "scan": "1.0.29",
    "img/": "1.0.29",
    "img/+scan": "1.0.29",
}


def _needs(case: Case) -> tuple[str, str] | None:
    if case.arch["global_pool"] == "map" and case.wrapper not in _SINCE:
        return "0.9.8", "the MAP head"
    return None


BIG_VISION = replace(
    GOOGLE_NPZ,
    name="big_vision",
    source="google-research/big_vision big_vision/models/vit.py",
    architectures=_big_vision(),
    models=("flexivit_*", "vit_*_siglip_*"),
    not_models=("*_gap_*",),
    foreign=_text_tower,
    wrappers=("params/", "params/img/", "params/+scan", "params/img/+scan", "bare", "scan", "img/", "img/+scan"),
    wrapper_since=_SINCE,
    needs=_needs,
    tags=lambda case: frozenset(
        {f"pool-{case.arch['global_pool']}"}
        | ({"scanned"} if case.wrapper.endswith("scan") else set())
        | ({"pre-logits"} if not case.arch["num_classes"] else set())
    ),
    own_regimes=frozenset({"pool-avg", "pool-token", "pool-map", "scanned", "pre-logits"}),
    weight=0.42,
)

FAMILIES = (GOOGLE_NPZ, GOOGLE_NPZ_STEM, GOOGLE_NPZ_RESNET, BIG_VISION)
