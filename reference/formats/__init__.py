"""The checkpoint formats the reference reads and writes, by name."""

from __future__ import annotations

from .dinov2 import DINOV2, DINOV2_REGISTERS, DINOV2_SWIGLU
from .openai_clip import OPENAI_CLIP, OPENAI_CLIP_DDP
from .openclip_trunk import OPENCLIP_TRUNK, OPENCLIP_TRUNK_DDP
from .rules import Facts, Format
from .timm_native import LEGACY_LINEAR, TIMM_NATIVE

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        TIMM_NATIVE,
        LEGACY_LINEAR,
        OPENAI_CLIP,
        OPENAI_CLIP_DDP,
        DINOV2,
        DINOV2_REGISTERS,
        DINOV2_SWIGLU,
        OPENCLIP_TRUNK,
        OPENCLIP_TRUNK_DDP,
    )
}

__all__ = ["FORMATS", "Facts", "Format"]
