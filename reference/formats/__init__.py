"""The checkpoint formats the reference reads and writes, by name."""

from __future__ import annotations

from .aimv2 import AIMV2
from .beit3 import BEIT3
from .dinov2 import DINOV2, DINOV2_REGISTERS, DINOV2_SWIGLU, TIPSV2, TIPSV2_SWIGLU
from .google_npz import BIG_VISION, GOOGLE_NPZ, GOOGLE_NPZ_RESNET, GOOGLE_NPZ_STEM
from .hybrid import HYBRID_RESNET
from .mobileclip import HYBRID_CONVSTEM, MOBILECLIP
from .openai_clip import OPENAI_CLIP, OPENAI_CLIP_DDP
from .openclip_trunk import OPENCLIP_TRUNK, OPENCLIP_TRUNK_DDP
from .radio import RADIO
from .rules import Facts, Format
from .timm_native import DEIT3, DEIT_DISTILLED, IJEPA, LEGACY_LINEAR, MAE_PRETRAINING, TIMM_NATIVE

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
        TIPSV2,
        TIPSV2_SWIGLU,
        OPENCLIP_TRUNK,
        OPENCLIP_TRUNK_DDP,
        IJEPA,
        MAE_PRETRAINING,
        DEIT_DISTILLED,
        DEIT3,
        BEIT3,
        AIMV2,
        RADIO,
        MOBILECLIP,
        HYBRID_CONVSTEM,
        HYBRID_RESNET,
        GOOGLE_NPZ,
        GOOGLE_NPZ_STEM,
        GOOGLE_NPZ_RESNET,
        BIG_VISION,
    )
}

__all__ = ["FORMATS", "Facts", "Format"]
