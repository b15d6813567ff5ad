"""Sapiens2: DINOv3's tokens and positions, with grouped queries, RMSNorm, SwiGLU and a layer scale inside attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from . import eva_model, vit
from .dinov3 import POOLING, ROTARY


@st.composite
def _architectures(draw: st.DrawFn) -> dict[str, Any]:
    fixed: dict[str, Any] = ROTARY | {
        "fc_norm": False,
        "attn_type": "rope",
        "qk_norm": True,
        "rms_norm": True,
        "swiglu": "packed",
        "layer_scale": "attn",
    }
    arch = draw(
        vit.architectures(
            reg_tokens=st.integers(1, 8),
            num_classes=st.just(0),
            global_pool=POOLING,
            **{name: st.just(value) for name, value in fixed.items()},
        )
    )
    half = max(arch["num_heads"] // 2, 1)
    return arch | {"num_kv_heads": draw(st.sampled_from([half, half, 1, arch["num_heads"]]), label="num_kv_heads")}


def _unfused(of: Callable[..., Any]) -> Callable[..., Any]:
    """``of`` with three projections: Sapiens2 never fuses them, so ``qkv_fused`` is no option of its ``arch``."""
    return lambda arch, *more: of({**arch, "qkv_fused": False}, *more)


SAPIENS2 = eva_model.family(
    name="sapiens2",
    source="facebookresearch/sapiens2 sapiens/backbones/standalone/sapiens2.py",
    known_since="1.0.30",
    architectures=_architectures(),
    shapes=_unfused(eva_model.shapes),
    model_kwargs=_unfused(eva_model.model_kwargs),
    models=("vit_*_sapiens2.*",),
    unreachable=frozenset({"prefix-0", "prefix-1"}),
    weight=0.22,
)

FAMILIES = (SAPIENS2,)
