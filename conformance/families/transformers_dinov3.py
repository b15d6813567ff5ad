"""Hugging Face transformers' DINOv3 ViT, in the names of its files and in those of its module."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import eva_model, vit
from .base import NO_RELEASE
from .dinov3 import POOLING, ROTARY, with_zero_biases


@st.composite
def _architectures(draw: st.DrawFn) -> dict[str, Any]:
    """The biases of q and v are learnt, or a checkpoint has none ("none") or zeros ("zero") and the model none."""
    fixed: dict[str, Any] = ROTARY | {"fc_norm": False, "layer_scale": True}
    bias = draw(st.sampled_from(["learnt", "zero", "none"]), label="bias")
    return draw(
        vit.architectures(
            reg_tokens=st.integers(0, 4),
            num_classes=st.just(0),
            global_pool=POOLING,
            swiglu=st.sampled_from(["", "split"]),
            qkv_bias=st.just(bias == "learnt"),
            bias=st.just(bias),
            **{name: st.just(value) for name, value in fixed.items()},
        )
    )


def _by_model(name: str) -> dict[str, Any]:
    return {"swiglu": "split" if any(part in name for part in ("_plus_", "_7b_")) else ""}


def _tags(case: Case) -> frozenset[str]:
    return frozenset({f"bias-{case.arch['bias']}", "mlp-gated" if case.arch["swiglu"] else "mlp-plain"})


TRANSFORMERS_DINOV3 = eva_model.family(
    name="transformers_dinov3",
    source="huggingface/transformers src/transformers/models/dinov3_vit/modeling_dinov3_vit.py: save_pretrained",
    known_since=NO_RELEASE,
    architectures=_architectures(),
    by_model=_by_model,
    model_kwargs=partial(eva_model.model_kwargs, eps=1e-5),
    models=("vit_*_dinov3.*", "vit_*_dinov3_qkvb.*"),
    wrappers=("bare", "model"),
    stored=with_zero_biases,
    tags=_tags,
    own_regimes=frozenset({"bias-learnt", "bias-zero", "bias-none", "mlp-gated", "mlp-plain"}),
    unreachable=frozenset({"prefix-0"}),
    weight=0.1,
)

TRANSFORMERS_DINOV3_MODULE = replace(
    TRANSFORMERS_DINOV3,
    name="transformers_dinov3_module",
    source="huggingface/transformers src/transformers/models/dinov3_vit/modeling_dinov3_vit.py: state_dict() since 5.0",
)

FAMILIES = (TRANSFORMERS_DINOV3, TRANSFORMERS_DINOV3_MODULE)
