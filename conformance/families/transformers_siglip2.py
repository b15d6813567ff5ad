"""Hugging Face transformers' SigLIP 2 of any resolution (NaFlex). Files of a fixed resolution have SigLIP's layout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .base import Arch
from .transformers_siglip import TRANSFORMERS_SIGLIP, TRANSFORMERS_SIGLIP_BARE

if TYPE_CHECKING:
    from ..reference import Resampling

_SOURCE = "huggingface/transformers src/transformers/models/siglip2/modeling_siglip2.py"
_AMBIGUITY = (
    "positions are a square grid of no image's shape, which upstream resizes to the grid of each image, bilinear with antialias. "
    "The reference does the same, whatever input size is declared."
)


def _resampling(arch: Arch) -> Resampling:
    from ..reference import Resampling

    return Resampling("bilinear", antialias=True)


TRANSFORMERS_SIGLIP2 = replace(
    TRANSFORMERS_SIGLIP,
    name="transformers_siglip2",
    source=f"{_SOURCE}: Siglip2Model, Siglip2ForImageClassification, files of Siglip2VisionModel",
    ambiguity=_AMBIGUITY,
    models=("vit_*_siglip_*.v2_webli",),
    not_models=("*_gap_*",),
    square_patch="always",
    square_source_grid=True,
    filter_kwargs=lambda arch: {"interpolation": "bilinear", "antialias": True},
    resampling=_resampling,
    unreachable=TRANSFORMERS_SIGLIP.unreachable
    | {
        "source-grid-non-square",
        "square-count-non-square",
        "native-identity:destination-grid-non-square",
        "native-identity:patch-non-square",
    },
)

TRANSFORMERS_SIGLIP2_BARE = replace(
    TRANSFORMERS_SIGLIP2,
    name="transformers_siglip2_bare",
    source=f"{_SOURCE}: Siglip2VisionModel since 5.0",
    architectures=TRANSFORMERS_SIGLIP_BARE.architectures,
    foreign=TRANSFORMERS_SIGLIP_BARE.foreign,
    own_regimes=TRANSFORMERS_SIGLIP_BARE.own_regimes,
)

FAMILIES = (TRANSFORMERS_SIGLIP2, TRANSFORMERS_SIGLIP2_BARE)
