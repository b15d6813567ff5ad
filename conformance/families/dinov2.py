"""DINOv2 hub weights: plain, with register tokens, and with a SwiGLU MLP; TIPSv2."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from ..cases.case import Case
from . import vit
from .base import Arch, Shapes

_SOURCE = "facebookresearch/dinov2 dinov2/models/vision_transformer.py"


def _options(**more: st.SearchStrategy) -> st.SearchStrategy[dict]:
    return vit.architectures(num_classes=st.just(0), layer_scale=st.just(True), **more)


@st.composite
def _swiglu(draw: st.DrawFn) -> dict:
    registers = draw(st.integers(0, 3), label="registers")
    return draw(_options(swiglu=st.just(True), reg_tokens=st.just(registers), no_embed_class=st.just(registers > 0)))


def _with_registers(case: Case) -> frozenset[str]:
    return frozenset({"class-row-folded"} if case.arch["reg_tokens"] else ())


DINOV2 = vit.family(
    name="dinov2",
    source=_SOURCE,
    known_since="0.9.0",
    architectures=_options(),
    models=("vit_*_dinov2.*",),
    not_models=("*_reg?_dinov2.*", "vit_giant_*"),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.4,
)

DINOV2_REGISTERS = vit.family(
    name="dinov2_registers",
    # Models have register tokens since 0.9.8; _convert_dinov2 knows them since 0.9.9.
    source=_SOURCE,
    known_since="0.9.8",
    complete_since="0.9.9",
    architectures=_options(reg_tokens=st.integers(1, 4), no_embed_class=st.just(True)),
    models=("vit_*_reg?_dinov2.*",),
    not_models=("vit_giant_*",),
    unreachable=frozenset({"prefix-0", "prefix-1"}),
    tags=_with_registers,
    own_regimes=frozenset({"class-row-folded"}),
    weight=0.22,
)

DINOV2_SWIGLU = vit.family(
    name="dinov2_swiglu",
    # _convert_dinov2 renamed w12 and w3 in 0.9.0; registers as above.
    source="facebookresearch/dinov2 dinov2/layers/swiglu_ffn.py",
    known_since="0.9.0",
    complete_since="0.9.9",
    architectures=_swiglu(),
    models=("vit_giant_*_dinov2.*",),
    unreachable=frozenset({"prefix-0"}),
    tags=_with_registers,
    own_regimes=frozenset({"class-row-folded"}),
    weight=0.22,
)


def _text_encoder(arch: Arch) -> Shapes:
    return {"text_encoder.transformer.resblocks.0.ln_1.weight": (8,), "temperature": ()}


TIPSV2 = vit.family(
    name="tipsv2",
    source="google-deepmind/tips pytorch/image_encoder.py",
    known_since="1.0.28",
    architectures=_options(reg_tokens=st.just(1), no_embed_class=st.just(True)),
    models=("vit_*_tipsv2.*",),
    not_models=("vit_giant_*",),
    foreign=_text_encoder,
    unreachable=frozenset({"prefix-0", "prefix-1"}),
    tags=_with_registers,
    own_regimes=frozenset({"class-row-folded"}),
    weight=0.22,
)

TIPSV2_SWIGLU = replace(
    TIPSV2,
    name="tipsv2_swiglu",
    architectures=_options(reg_tokens=st.just(1), no_embed_class=st.just(True), swiglu=st.just(True)),
    models=("vit_giant_*_tipsv2.*",),
    not_models=(),
    weight=0.22,
)

FAMILIES = (DINOV2, DINOV2_REGISTERS, DINOV2_SWIGLU, TIPSV2, TIPSV2_SWIGLU)
