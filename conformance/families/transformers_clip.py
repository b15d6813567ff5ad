"""Hugging Face transformers' CLIP vision tower: with a projection, a classifier or neither, and as its module names it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import vit
from .base import NO_RELEASE, Arch, Shapes
from .openai_clip import OPENAI_CLIP

_SOURCE = "huggingface/transformers src/transformers/models/clip/modeling_clip.py"


def _tower(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    act = st.sampled_from(["quick_gelu", "gelu"])
    return vit.architectures(pre_norm=st.just(True), act=act, **options)


@st.composite
def _architectures(draw: st.DrawFn) -> dict[str, Any]:
    """A classifier reads the mean of the patches without a final norm."""
    head = draw(st.sampled_from(["projection", "none", "classifier"]), label="head")
    options: dict[str, Any] = {"global_pool": "token", "final_norm": True}
    if head == "classifier":
        options = {"global_pool": "avg", "fc_norm": False, "final_norm": False}
    return draw(
        _tower(
            num_classes=st.just(0) if head == "none" else st.integers(1, 6),
            head=st.just(head),
            **{name: st.just(value) for name, value in options.items()},
        )
    )


def _text_tower(arch: Arch) -> Shapes:
    text = {"encoder.layers.0.layer_norm1.weight": (8,), "embeddings.position_embedding.weight": (7, 8)}
    return {"logit_scale": (), "text_projection.weight": (6, 8)} | {f"text_model.{k}": v for k, v in text.items()}


def _tags(case: Case) -> frozenset[str]:
    return frozenset({f"head-{case.arch['head']}"})


TRANSFORMERS_CLIP = vit.family(
    name="transformers_clip",
    source=f"{_SOURCE}: CLIPModel, CLIPVisionModelWithProjection, CLIPForImageClassification, files of CLIPVisionModel",
    known_since=NO_RELEASE,
    architectures=_architectures(),
    model_kwargs=lambda arch: vit.model_kwargs(arch, eps=1e-5),
    models=OPENAI_CLIP.models,
    implied=lambda arch: frozenset({"head.bias"} if arch["head"] == "projection" else ()),
    foreign=_text_tower,
    wrappers=("bare", "model"),
    tags=_tags,
    own_regimes=frozenset({"head-projection", "head-none", "head-classifier"}),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.1,
)

TRANSFORMERS_CLIP_BARE = replace(
    TRANSFORMERS_CLIP,
    name="transformers_clip_bare",
    source=f"{_SOURCE}: CLIPVisionModel since 5.0",
    architectures=_tower(num_classes=st.just(0)),
    implied=lambda arch: frozenset(),
    foreign=lambda arch: {},
    tags=lambda case: frozenset(),
    own_regimes=frozenset(),
)

FAMILIES = (TRANSFORMERS_CLIP, TRANSFORMERS_CLIP_BARE)
