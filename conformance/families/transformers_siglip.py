"""Hugging Face transformers' SigLIP vision tower: with its pooling head, a classifier or neither, and as its module names it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import vit
from .base import NO_RELEASE, Arch, Shapes

_SOURCE = "huggingface/transformers src/transformers/models/siglip/modeling_siglip.py"


@st.composite
def towers(draw: st.DrawFn, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Towers with one of the heads: "attention" (the pooling head), "none" (the mean of the patches), "classifier"."""
    head = draw(st.sampled_from(kinds), label="head")
    options: dict[str, Any] = {"global_pool": "map"}
    if head != "attention":
        options = {"global_pool": "avg", "fc_norm": False}
    return draw(
        vit.architectures(
            class_token=st.just(False),
            num_classes=st.integers(1, 5) if head == "classifier" else st.just(0),
            act=st.sampled_from(["gelu_tanh", "gelu"]),
            head=st.just(head),
            **{name: st.just(value) for name, value in options.items()},
        )
    )


def _text_tower(arch: Arch) -> Shapes:
    text = {"encoder.layers.0.layer_norm1.weight": (8,), "head.weight": (8, 8), "head.bias": (8,)}
    return {"logit_scale": (1,), "logit_bias": (1,)} | {f"text_model.{k}": v for k, v in text.items()}


def _tags(case: Case) -> frozenset[str]:
    return frozenset({f"head-{case.arch['head']}"})


TRANSFORMERS_SIGLIP = vit.family(
    name="transformers_siglip",
    source=f"{_SOURCE}: SiglipModel, SiglipForImageClassification, files of SiglipVisionModel",
    known_since=NO_RELEASE,
    architectures=towers(("attention", "none", "classifier")),
    models=("vit_*_siglip_*",),
    not_models=("*_gap_*", "*_ft_in1k"),
    foreign=_text_tower,
    wrappers=("bare", "model"),
    tags=_tags,
    own_regimes=frozenset({"head-attention", "head-none", "head-classifier"}),
    unreachable=frozenset({"prefix-1", "prefix-1+R"}),
    weight=0.1,
)

TRANSFORMERS_SIGLIP_BARE = replace(
    TRANSFORMERS_SIGLIP,
    name="transformers_siglip_bare",
    source=f"{_SOURCE}: SiglipVisionModel since 5.0",
    architectures=towers(("attention", "none")),
    foreign=lambda arch: {},
    own_regimes=frozenset({"head-attention", "head-none"}),
)

FAMILIES = (TRANSFORMERS_SIGLIP, TRANSFORMERS_SIGLIP_BARE)
