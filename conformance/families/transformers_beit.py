"""Hugging Face transformers' BEiT."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ..cases.case import Case
from . import beit, hugging_face
from .base import NO_RELEASE, Arch, Shapes, State

_RENAMINGS = (
    ("encoder.relative_position_bias.", "shared_position_bias."),
    ("attention.attention.relative_position_bias.", "relative_position_bias."),
    *hugging_face.ENCODER,
)


def _written(case: Case, state: State) -> State:
    return hugging_face.spelled(case, state, "beit.", "layers.", _RENAMINGS)


def _model_kwargs(arch: Arch) -> dict[str, Any]:
    from torch import nn

    return beit.BEIT.model_kwargs(arch) | {"norm_layer": partial(nn.LayerNorm, eps=1e-12)}


def _beside(arch: Arch) -> Shapes:
    """The mask token; and the index of the first block's table, or of the shared one, that old files hold."""
    root = "" if arch["bare"] else "beit."
    out: Shapes = {f"{root}embeddings.mask_token": (1, 1, arch["embed_dim"])}
    places = {"block": "encoder.layer.0.attention.attention.", "shared": "encoder."}
    if arch["names"] == "saved" and arch["tables"] in places:
        out[f"{root}{places[arch['tables']]}relative_position_bias.relative_position_index"] = (2, 2)
    return out


TRANSFORMERS_BEIT = replace(
    beit.BEIT,
    name="transformers_beit",
    source="huggingface/transformers src/transformers/models/beit/modeling_beit.py",
    known_since=NO_RELEASE,
    complete_since="",
    needs=lambda case: None,
    architectures=hugging_face.architectures(beit.BEIT.architectures),
    model_kwargs=_model_kwargs,
    models=("beit_*",),
    written=_written,
    foreign=_beside,
    wrappers=("bare", "model"),
    wrapper_since={},
    tags=lambda case: beit.BEIT.tags(case) | hugging_face.tags(case),
    own_regimes=beit.BEIT.own_regimes | hugging_face.REGIMES,
    weight=0.15,
)

FAMILIES = (TRANSFORMERS_BEIT,)
