"""MAE: encoders and fine-tuned classifiers in timm's own names, and whole pretraining models with their decoder."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from . import vit
from .base import Arch, Shapes


@st.composite
def _encoder(draw: st.DrawFn) -> dict:
    """A pretrained encoder has no head. A classifier fine-tuned with global pooling has a norm after the mean."""
    tuned = draw(st.booleans(), label="fine-tuned")
    if not tuned:
        return draw(vit.architectures(num_classes=st.just(0)))
    return draw(vit.architectures(num_classes=st.integers(1, 5), global_pool=st.just("avg")))


def _decoder(arch: Arch) -> Shapes:
    """Tensors of the decoder. Every such checkpoint also has ``mask_token`` and ``decoder_pos_embed``."""
    return {
        "decoder_embed.weight": (8, arch["embed_dim"]),
        "decoder_embed.bias": (8,),
        "decoder_blocks.0.norm1.weight": (8,),
        "decoder_blocks.0.attn.qkv.weight": (24, 8),
        "decoder_norm.weight": (8,),
        "decoder_pred.weight": (12, 8),
    }


MAE = vit.family(
    name="mae",
    source="facebookresearch/mae models_vit.py",
    shares_format="timm_native",
    known_since="0.9.0",
    architectures=_encoder(),
    models=("vit_*.mae", "eva_large_patch14_*"),
    wrappers=("model", "bare", "model.state_dict"),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.22,
)

MAE_PRETRAINING = replace(
    MAE,
    name="mae_pretraining",
    source="facebookresearch/mae models_mae.py",
    shares_format="mae_pretraining",
    architectures=vit.architectures(num_classes=st.just(0)),
    models=("vit_*.mae",),
    foreign=_decoder,
    weight=0.22,
)

FAMILIES = (MAE, MAE_PRETRAINING)
