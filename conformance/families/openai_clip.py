"""OpenAI CLIP and OpenCLIP image towers, bare and from DistributedDataParallel: the family of timm issue #2120.

OpenCLIP's towers with options that OpenAI's lack are a family of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import vit
from .base import Arch, Shapes


def _foreign(prefix: str) -> Callable[[Arch], Shapes]:
    def shapes(arch: Arch) -> Shapes:
        return {prefix + key: shape for key, shape in vit.text_tower().items()}

    return shapes


OPENAI_CLIP = vit.family(
    name="openai_clip",
    source="openai/CLIP clip/model.py; mlfoundations/open_clip src/open_clip/transformer.py",
    known_since="0.9.0",
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
    known_since="0.9.9",
    foreign=_foreign("module."),
    weight=0.22,
)


@st.composite
def _with_options(draw: st.DrawFn) -> dict[str, Any]:
    """Options of which OpenAI's towers have none: no norm before the blocks, layer scale, the patches' mean."""
    pre_norm = draw(st.booleans(), label="pre_norm")
    pool = draw(st.sampled_from(["avg", "token"]), label="global_pool")
    return draw(
        vit.architectures(
            num_classes=st.integers(1, 6),
            pre_norm=st.just(pre_norm),
            # A tower with the norm and without layer scale has the same tensors as OpenAI's.
            layer_scale=st.just(True) if pre_norm else st.booleans(),
            global_pool=st.just(pool),
            fc_norm=st.booleans() if pool == "avg" else st.just(False),
            act=vit.ACTIVATIONS,
        )
    )


def _tags(case: Case) -> frozenset[str]:
    arch = case.arch
    flags = {
        "no-pre-norm": not arch["pre_norm"],
        "layer-scale": arch["layer_scale"],
        "norm-after-pool": arch["fc_norm"],
    }
    return frozenset(name for name, holds in flags.items() if holds)


OPENCLIP_TOWER = replace(
    OPENAI_CLIP,
    name="openclip_tower",
    source="mlfoundations/open_clip src/open_clip/model.py: CLIPVisionCfg; src/open_clip/transformer.py",
    architectures=_with_options(),
    implied=lambda arch: frozenset({"head.bias"} | (set() if arch["pre_norm"] else {"patch_embed.proj.bias"})),
    tags=_tags,
    own_regimes=frozenset({"no-pre-norm", "layer-scale", "norm-after-pool"}),
    weight=0.22,
)

FAMILIES = (OPENAI_CLIP, OPENAI_CLIP_DDP, OPENCLIP_TOWER)
