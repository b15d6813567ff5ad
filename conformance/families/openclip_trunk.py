"""OpenCLIP models with a timm image tower (SigLIP among them), bare and from DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from ..cases.case import Case
from . import vit
from .base import Arch, Shapes


@st.composite
def _trunk(draw: st.DrawFn) -> dict:
    pool = draw(st.sampled_from(["map", "token", "avg"]), label="global_pool")
    head = draw(st.sampled_from(["none", "proj", "proj+bias"]), label="head")
    base = vit.architectures(
        class_token=st.just(pool == "token"),
        num_classes=st.just(0) if head == "none" else st.integers(1, 5),
        global_pool=st.just(pool),
        head=st.just(head),
        pos_embed=st.sampled_from(["learn"] * 3 + ["none"]),
    )
    return draw(base)


def _tags(case: Case) -> frozenset[str]:
    return frozenset({f"head-{case.arch['head']}"} | ({"no-positions"} if _no_positions(case) else set()))


def _no_positions(case: Case) -> bool:
    return case.arch.get("pos_embed") == "none"


def _foreign(prefix: str) -> Callable[[Arch], Shapes]:
    text = {"text.transformer.resblocks.0.ln_1.weight": (8,), "text.token_embedding.weight": (11, 8)}

    def shapes(arch: Arch) -> Shapes:
        return {prefix + key: shape for key, shape in (text | {"logit_scale": (), "logit_bias": ()}).items()}

    return shapes


OPENCLIP_TRUNK = vit.family(
    name="openclip_trunk",
    source="mlfoundations/open_clip src/open_clip/timm_model.py",
    known_since="0.9.8",
    architectures=_trunk(),
    models=("vit_*_siglip_*",),
    not_models=("*_gap_*", "*_ft_in1k"),
    implied=lambda arch: frozenset({"head.bias"} if arch["head"] == "proj" else ()),
    foreign=_foreign(""),
    unreachable=frozenset({"prefix-1+R"}),
    tags=_tags,
    own_regimes=frozenset({"head-none", "head-proj", "head-proj+bias", "no-positions"}),
    weight=0.32,
)

OPENCLIP_TRUNK_DDP = replace(
    OPENCLIP_TRUNK,
    name="openclip_trunk_ddp",
    source="mlfoundations/open_clip src/open_clip_train/main.py (checkpoints saved from DistributedDataParallel)",
    known_since="1.0.20",
    foreign=_foreign("module."),
    weight=0.22,
)

FAMILIES = (OPENCLIP_TRUNK, OPENCLIP_TRUNK_DDP)
