"""AIMv2 image encoders."""

from __future__ import annotations

from hypothesis import strategies as st

from . import vit
from .base import Arch


def _model_kwargs(arch: Arch) -> dict:
    norm = ("timm.layers:RmsNorm", {"eps": 1e-5})
    return vit.model_kwargs(arch) | {"norm_layer": norm, "embed_norm_layer": norm}


AIMV2 = vit.family(
    name="aimv2",
    source="apple/ml-aim aim-v2/aim/v2/torch/models.py",
    known_since="1.0.13",
    architectures=vit.architectures(
        class_token=st.just(False),
        num_classes=st.just(0),
        global_pool=st.just("avg"),
        fc_norm=st.just(False),
        qkv_bias=st.just(False),
        proj_bias=st.just(False),
        rms_norm=st.just(True),
        embed_norm=st.just(True),
        swiglu=st.just("split"),
    ),
    model_kwargs=_model_kwargs,
    models=("aimv2_*",),
    unreachable=frozenset({"prefix-1", "prefix-1+R"}),
    weight=0.22,
)

FAMILIES = (AIMV2,)
