"""EVA-02: fine-tuned, as pretrained, and in EVA-CLIP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import eva_model, vit
from .eva import POOLS, WRAPPERS, pool_tags, text_tower


@st.composite
def _eva02(
    draw: st.DrawFn, /, pools: tuple[str, ...] = ("avg", "token"), **more: st.SearchStrategy[Any]
) -> dict[str, Any]:
    """Options of EVA-02.

    Published files have one projection and a packed gate, or three projections and a norm inside the MLP. The code allows
    every combination.
    """
    split = draw(st.booleans(), label="split gate")
    return draw(
        vit.architectures(
            mlp_ratio=st.sampled_from([2, 1, 8 / 3]),
            global_pool=st.sampled_from(pools),
            qkv_fused=st.booleans(),
            swiglu=st.just("split" if split else "packed"),
            scale_mlp=st.just(split),
            rope=st.just("cat"),
            ref_grid=st.just(16),
            **more,
        )
    )


def _forms(case: Case) -> frozenset[str]:
    return frozenset({"qkv-fused" if case.arch["qkv_fused"] else "qkv-split", f"swiglu-{case.arch['swiglu']}"})


_FORMS = frozenset({"qkv-fused", "qkv-split", "swiglu-packed", "swiglu-split"})

EVA02 = eva_model.family(
    name="eva02",
    source="baaivision/EVA EVA-02/asuka/modeling_finetune.py",
    known_since="0.9.0",
    architectures=_eva02(),
    models=("eva02_*_ft_*",),
    wrappers=WRAPPERS,
    tags=lambda case: pool_tags(case) | _forms(case),
    own_regimes=POOLS | _FORMS,
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.22,
)

EVA02_MIM = replace(
    EVA02,
    name="eva02_mim",
    source="baaivision/EVA EVA-02/asuka/modeling_pretrain.py",
    architectures=_eva02(pools=("avg",), num_classes=st.just(0)),
    models=("eva02_*_224.mim_*",),
    tags=_forms,
    own_regimes=_FORMS,
    weight=0.22,
)

EVA02_CLIP = replace(
    EVA02,
    name="eva02_clip",
    source="baaivision/EVA EVA-CLIP/rei/eva_clip/eva_vit_model.py",
    architectures=_eva02(pools=("token",), scale_attn=st.booleans(), num_classes=st.integers(1, 5)),
    models=("eva02_*_clip_*",),
    not_models=("eva02_enormous_*",),
    foreign=text_tower,
    tags=_forms,
    own_regimes=_FORMS,
    weight=0.22,
)

FAMILIES = (EVA02, EVA02_MIM, EVA02_CLIP)
