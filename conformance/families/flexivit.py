"""FlexiViT weights in timm's layout. timm resamples them without antialias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from . import vit
from .base import Arch

if TYPE_CHECKING:
    from ..reference import Resampling


def _bilinear(arch: Arch) -> Resampling:
    from ..reference import BILINEAR

    return BILINEAR


FLEXIVIT = vit.family(
    name="flexivit",
    source="google-research/big_vision big_vision/models/proj/flexi/vit.py (timm's conversion; its own file is big_vision)",
    shares_format="timm_native",
    known_since="0.9.0",
    architectures=vit.architectures(no_embed_class=st.just(True)),
    filter_kwargs=lambda arch: {"interpolation": "bilinear", "antialias": False},
    resampling=_bilinear,
    models=("flexivit_*",),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.22,
)

FAMILIES = (FLEXIVIT,)
