"""torchvision's VisionTransformer, in its names and in those of its published files."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from . import vit
from .base import NO_RELEASE

_SOURCE = "pytorch/vision torchvision/models/vision_transformer.py"

TORCHVISION_VIT = vit.family(
    name="torchvision_vit",
    source=_SOURCE,
    known_since=NO_RELEASE,
    architectures=vit.architectures(num_classes=st.integers(1, 5)),
    models=("vit_*_patch*_224.augreg*", "vit_huge_patch14_224.*"),
    wrappers=("bare", "model"),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.1,
)

TORCHVISION_VIT_OLDER = replace(
    TORCHVISION_VIT,
    name="torchvision_vit_older",
    source=f"{_SOURCE}: MLPBlock before 0.13, as in the published files",
)

FAMILIES = (TORCHVISION_VIT, TORCHVISION_VIT_OLDER)
