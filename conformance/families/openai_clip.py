"""OpenAI CLIP and OpenCLIP image towers, bare and from DistributedDataParallel: the family of timm issue #2120."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from . import vit
from .base import Arch, Shapes


def _foreign(prefix: str) -> Callable[[Arch], Shapes]:
    def shapes(arch: Arch) -> Shapes:
        return {prefix + key: shape for key, shape in vit.text_tower().items()}

    return shapes


OPENAI_CLIP = vit.family(
    name="openai_clip",
    source="openai/CLIP clip/model.py; mlfoundations/open_clip src/open_clip/transformer.py",
    first_release="0.9.0",
    architectures=vit.architectures(num_classes=st.integers(1, 6), pre_norm=st.just(True), act=vit.ACTIVATIONS),
    model_kwargs=lambda arch: vit.model_kwargs(arch, eps=1e-5),
    models=(
        "vit_*_clip_*.laion*b",
        "vit_*_clip_*.laion400m*",
        "vit_*_clip_*.openai",
        "vit_*_clip_*.datacompxl",
        "vit_*_clip_*.dfn*",
        "vit_*_clip_*.metaclip*",
        "vit_*_clip_*.tinyclip*",
    ),
    implied=lambda arch: frozenset({"head.bias"}),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    foreign=_foreign(""),
    weight=0.45,
)

OPENAI_CLIP_DDP = replace(
    OPENAI_CLIP,
    name="openai_clip_ddp",
    source="mlfoundations/open_clip src/open_clip_train/main.py (checkpoints saved from DistributedDataParallel)",
    first_release="0.9.9",
    foreign=_foreign("module."),
    weight=0.22,
)

FAMILIES = (OPENAI_CLIP, OPENAI_CLIP_DDP)
