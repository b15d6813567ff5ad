"""EVA-01, and timm's own layout of its Eva class: bare, in EVA-CLIP, as OpenCLIP's image tower, with timm's later options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import eva_model, vit
from .base import Arch, Shapes

# In the order in which timm looks for them.
WRAPPERS = (
    "bare",
    "model",
    "module",
    "model_ema",
    "state_dict",
    "model.state_dict",
    "model_ema.state_dict",
    "model.module",
)
_NATIVE_WRAPPERS = ("bare", "model", "state_dict", "model.state_dict")


def pool_tags(case: Case) -> frozenset[str]:
    """The pooling, which decides the norm: ``fc_norm`` after averaging, ``norm`` before the class token is taken."""
    return frozenset({f"pool-{case.arch['global_pool']}"})


POOLS = frozenset({"pool-token", "pool-avg"})


def _eva_tags(case: Case) -> frozenset[str]:
    return pool_tags(case) | ({"post-norm"} if case.arch["post_norm"] else frozenset())


EVA = eva_model.family(
    name="eva",
    source="baaivision/EVA EVA-01/eva/modeling_finetune.py",
    known_since="0.9.0",
    architectures=vit.architectures(
        global_pool=st.sampled_from(["avg", "token"]),
        post_norm=st.sampled_from([False, False, True]),
        # No published file has layer scale. With it, the names would be BEiT's.
        layer_scale=st.just(False),
    ),
    models=("eva_giant_*",),
    not_models=("*_clip_???.*",),
    wrappers=WRAPPERS,
    tags=_eva_tags,
    own_regimes=POOLS | {"post-norm"},
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.22,
)


def text_tower(arch: Arch) -> Shapes:
    """Tensors beside the image tower of a CLIP model whose text tower is a module of its own."""
    text = {f"text.{name}": shape for name, shape in vit.text_tower().items() if name != "logit_scale"}
    return text | {"logit_scale": ()}


EVA_CLIP = replace(
    EVA,
    name="eva_clip",
    source="baaivision/EVA EVA-CLIP/rei/eva_clip/eva_vit_model.py",
    architectures=vit.architectures(
        global_pool=st.just("token"), post_norm=st.booleans(), layer_scale=st.just(False), num_classes=st.integers(1, 5)
    ),
    models=("eva_giant_*_clip_???.*", "eva02_enormous_*_clip_*"),
    not_models=(),
    foreign=text_tower,
    tags=lambda case: frozenset({"post-norm"} if case.arch["post_norm"] else ()),
    own_regimes=frozenset({"post-norm"}),
    weight=0.22,
)


# -- timm's own --------------------------------------------------------------------------------------------------------


@st.composite
def _native(draw: st.DrawFn) -> dict[str, Any]:
    """Options of the models that timm trained itself, and of EVA-02 as it is published for timm.

    Models with layer scale have no absolute positions: with both, the names would be BEiT's.
    """
    pool = draw(st.sampled_from(["avg", "token"]), label="global_pool")
    swiglu = draw(st.sampled_from(["", "packed", "split"]), label="swiglu")
    positions = draw(st.sampled_from(["learn", "learn", "none"]), label="pos_embed")
    return draw(
        vit.architectures(
            class_token=st.just(True) if pool == "token" else st.booleans(),
            reg_tokens=st.integers(0, 3),
            mlp_ratio=st.sampled_from([2, 1, 8 / 3]),
            global_pool=st.just(pool),
            swiglu=st.just(swiglu),
            scale_mlp=st.just(True) if swiglu == "split" else st.just(False) if swiglu else st.booleans(),
            scale_attn=st.booleans(),
            qkv_fused=st.booleans(),
            layer_scale=st.just(positions == "none"),
            pos_embed=st.just(positions),
            rope=st.sampled_from(["cat", ""]),
            ref_grid=st.sampled_from([0, 4]),
            dynamic_img_size=st.sampled_from([False, False, True]),
            in_chans=st.sampled_from([3, 3, 3, 3, 1, 4]),
        )
    )


def _by_native_model(name: str) -> dict[str, Any]:
    """Registered models with ``_rope_`` in their name have layer scale, and ``create_model`` drops an argument None."""
    return {"layer_scale": True, "pos_embed": "none"} if "_rope_" in name else {}


def _native_tags(case: Case) -> frozenset[str]:
    arch = case.arch
    flags = {"no-positions": arch["pos_embed"] == "none", "dynamic-size": arch["dynamic_img_size"]}
    tags = pool_tags(case) | {"qkv-fused" if arch["qkv_fused"] else "qkv-split", f"channels-{arch['in_chans']}"}
    return tags | {f"swiglu-{arch['swiglu'] or 'none'}"} | {name for name, holds in flags.items() if holds}


def _native_needs(case: Case) -> tuple[str, str] | None:
    """Earlier releases have the argument, and their constructor fails where it is False."""
    return None if case.arch["class_token"] else ("0.9.16", "Eva models without a class token")


EVA_NATIVE = eva_model.family(
    name="eva_native",
    shares_format="eva",
    source="huggingface/pytorch-image-models timm/models/eva.py",
    known_since="0.9.0",
    architectures=_native(),
    by_model=_by_native_model,
    models=("eva02_*", "eva_giant_*", "vit_*_rope_reg?_gap_*"),
    not_models=("*_clip_*",),
    wrappers=_NATIVE_WRAPPERS,
    needs=_native_needs,
    tags=_native_tags,
    own_regimes=POOLS
    | {"no-positions", "dynamic-size", "qkv-fused", "qkv-split", "channels-1", "channels-3", "channels-4"}
    | {"swiglu-none", "swiglu-packed", "swiglu-split"},
    weight=0.22,
)


@st.composite
def _rotary(draw: st.DrawFn) -> dict[str, Any]:
    """Options of RoPE-ViT's models: attention with an ordinary bias, and positions for patches only, or none.

    A model with positions and fixed angles has the same tensor names as DeiT-III, so only the model tells the two apart.
    Such cases are not drawn.
    """
    rope = draw(st.sampled_from(["mixed", "mixed", "cat"]), label="rope")
    positions = draw(
        st.sampled_from(["learn", "learn", "none"]) if rope == "mixed" else st.just("none"), label="pos_embed"
    )
    pool = draw(st.sampled_from(["token", "avg"]), label="global_pool")
    return draw(
        vit.architectures(
            reg_tokens=st.integers(0, 2),
            global_pool=st.just(pool),
            fc_norm=st.just(pool == "avg"),
            attn_type=st.just("rope"),
            layer_scale=st.just(True),
            rope=st.just(rope),
            rope_xy=st.booleans(),
            rope_temperature=st.sampled_from([100.0, 10.0]),
            no_embed_class=st.just(True),
            pos_embed=st.just(positions),
        )
    )


def _rotary_tags(case: Case) -> frozenset[str]:
    flags = {"no-positions": case.arch["pos_embed"] == "none", "learnt-angles": case.arch["rope"] == "mixed"}
    return frozenset(name for name, holds in flags.items() if holds)


def _by_rotary_model(name: str) -> dict[str, Any]:
    return {"rope_xy": True}


EVA_NATIVE_ROPE = eva_model.family(
    name="eva_native_rope",
    shares_format="eva",
    source="huggingface/pytorch-image-models timm/models/eva.py; naver-ai/rope-vit",
    known_since="1.0.17",
    architectures=_rotary(),
    created_kwargs=eva_model.created_kwargs,
    models=("vit_*_patch16_rope_*.naver_in1k",),
    wrappers=_NATIVE_WRAPPERS,
    tags=_rotary_tags,
    own_regimes=frozenset({"no-positions", "learnt-angles"}),
    unreachable=frozenset({"prefix-0"}),
    weight=0.4,
)


# -- OpenCLIP ----------------------------------------------------------------------------------------------------------


def _trunk(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return vit.architectures(
        mlp_ratio=st.sampled_from([2, 8 / 3]),
        global_pool=st.just("token"),
        qkv_fused=st.booleans(),
        swiglu=st.just("split"),
        scale_mlp=st.just(True),
        scale_attn=st.booleans(),
        rope=st.just("cat"),
        ref_grid=st.just(16),
        **options,
    )


def _trunk_tags(case: Case) -> frozenset[str]:
    head = case.arch.get("head") or ("trunk" if case.arch["num_classes"] else "none")
    return frozenset({f"head-{head}"} | ({"no-positions"} if case.arch.get("pos_embed") == "none" else set()))


EVA_OPENCLIP_TRUNK = eva_model.family(
    name="eva_openclip_trunk",
    source="mlfoundations/open_clip src/open_clip/timm_model.py",
    known_since="0.9.0",
    architectures=_trunk(pos_embed=st.sampled_from(["learn"] * 5 + ["none"])),
    models=("eva02_*_clip_*",),
    not_models=("eva02_enormous_*",),
    wrappers=("bare", "state_dict", "model", "module"),
    foreign=text_tower,
    tags=_trunk_tags,
    own_regimes=frozenset({"head-trunk", "head-none", "no-positions"}),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.22,
)

EVA_OPENCLIP_PROJECTION = replace(
    EVA_OPENCLIP_TRUNK,
    name="eva_openclip_projection",
    architectures=_trunk(num_classes=st.integers(1, 5), head=st.sampled_from(["proj", "proj+bias"])),
    implied=lambda arch: frozenset({"head.bias"} if arch["head"] == "proj" else ()),
    own_regimes=frozenset({"head-proj", "head-proj+bias"}),
    weight=0.22,
)

FAMILIES = (EVA, EVA_CLIP, EVA_NATIVE, EVA_NATIVE_ROPE, EVA_OPENCLIP_TRUNK, EVA_OPENCLIP_PROJECTION)
