"""The checkpoint formats the reference reads and writes, by name."""

from __future__ import annotations

from .aimv2 import AIMV2
from .beit import BEIT
from .beit3 import BEIT3
from .dinov2 import DINOV2, DINOV2_REGISTERS, DINOV2_SWIGLU, TIPSV2, TIPSV2_SWIGLU
from .dinov3 import DINOV3, DINOV3_SWIGLU
from .eva import EVA, EVA_CLIP, EVA_OPENCLIP_TRUNK
from .eva02 import EVA02, EVA02_CLIP, EVA02_MIM
from .google_npz import BIG_VISION, GOOGLE_NPZ, GOOGLE_NPZ_RESNET, GOOGLE_NPZ_STEM
from .hybrid import HYBRID_RESNET
from .mobileclip import HYBRID_CONVSTEM, MOBILECLIP
from .naflex_native import NAFLEX_NATIVE
from .openai_clip import OPENAI_CLIP, OPENAI_CLIP_DDP
from .openclip_trunk import OPENCLIP_TRUNK, OPENCLIP_TRUNK_DDP
from .perception_encoder import PERCEPTION_ENCODER, PERCEPTION_ENCODER_BARE
from .radio import RADIO
from .relpos import RELPOS
from .rules import Facts, Format
from .sam import SAM
from .sapiens2 import SAPIENS2
from .swin import SWIN, SWIN_NATIVE, SWIN_V2
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
        BEIT,
        BEIT3,
        AIMV2,
        RADIO,
        RELPOS,
        SWIN,
        SWIN_NATIVE,
        SWIN_V2,
        EVA,
        EVA_CLIP,
        EVA02,
        EVA02_CLIP,
        EVA02_MIM,
        EVA_OPENCLIP_TRUNK,
        PERCEPTION_ENCODER,
        PERCEPTION_ENCODER_BARE,
        DINOV3,
        DINOV3_SWIGLU,
        SAPIENS2,
        SAM,
        NAFLEX_NATIVE,
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
