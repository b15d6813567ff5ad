"""RADIO and C-RADIO, with a linear patch embedding and positions of which a model reads a window, and what timm saves of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from . import asks, vit
from .base import NO_RELEASE, Arch, Shapes

if TYPE_CHECKING:
    from ..reference import Resampling


def _by_model(name: str) -> dict[str, Any]:
    """Whether positions are resized with aligned corners, which differs from model to model."""
    return {"align_corners": name.startswith(("vit_base_patch16_radio_v3", "vit_huge_patch16_radio_v3"))}


def _resampling(arch: Arch) -> Resampling:
    from ..reference import Resampling

    return Resampling("bilinear", antialias=False, align_corners=arch["align_corners"])


def _beside(arch: Arch) -> Shapes:
    return {
        "radio_model.input_conditioner.norm_mean": (3, 1, 1),
        "radio_model.input_conditioner.norm_std": (3, 1, 1),
        "radio_model.summary_idxs": (2,),
        "radio_model.adaptors.clip.head_mlp.fc1.weight": (8, arch["embed_dim"]),
    }


RADIO = vit.family(
    name="radio",
    source="NVlabs/RADIO radio/vit_patch_generator.py",
    ambiguity=(
        "upstream resizes the square grid of its file to the longer side of the model's and reads the top left part. timm "
        "does the same with upstream's file, and a NaFlexViT with the grid that it keeps."
    ),
    known_since="1.0.31",
    architectures=vit.architectures(
        reg_tokens=st.integers(1, 4),
        num_classes=st.just(0),
        no_embed_class=st.just(True),
        final_norm=st.just(False),
        layer_scale=st.booleans(),
    ),
    by_model=_by_model,
    filter_kwargs=lambda arch: {
        "interpolation": "bilinear",
        "antialias": False,
        "align_corners": arch["align_corners"],
    },
    resampling=_resampling,
    asks=asks.pre_norm,  # a NaFlexViT keeps the whole grid of 128x128 positions, which takes too long for every case
    models=("vit_*_radio_*",),
    implied=lambda arch: frozenset({"patch_embed.proj.bias"}),
    foreign=_beside,
    square_patch="always",
    square_source_grid=True,
    forward_arch=lambda case: {"patch_size": case.source.patch_size},
    tags=lambda case: frozenset({"aligned-corners"} if case.arch["align_corners"] else ()),
    own_regimes=frozenset({"aligned-corners"}),
    unreachable=frozenset(
        {
            "prefix-0",
            "prefix-1",
            "source-grid-non-square",
            "square-count-non-square",
            "native-identity:destination-grid-non-square",
            "native-identity:patch-non-square",
        }
    ),
    weight=0.45,
)

RADIO_BARE = replace(
    RADIO,
    name="radio_bare",
    source="NVlabs/RADIO hubconf.py: what its .pth.tar has behind base_model.",
    known_since=NO_RELEASE,
    filter_kwargs=lambda arch: {},
    foreign=lambda arch: {},
    weight=0.1,
)

# timm stores only the model's own grid. A model of another size gets it resized as a whole, in the model's own mode.
RADIO_NATIVE = replace(
    RADIO,
    name="radio_native",
    source="huggingface/pytorch-image-models timm/models/vision_transformer.py (RADIO in timm's names)",
    shares_format="timm_native",
    ambiguity=(
        "what timm has saved holds the grid of one model only, which need not be a square any more. Upstream has no rule for "
        "it, and timm stretches it to the next model's. On square grids both files resample to the same, on others they cannot."
    ),
    implied=lambda arch: frozenset(),
    foreign=lambda arch: {},
    square_patch="",
    square_source_grid=False,
    forward_arch=lambda case: {},
    unreachable=frozenset({"prefix-0", "prefix-1"}),
    weight=0.22,
)

FAMILIES = (RADIO, RADIO_BARE, RADIO_NATIVE)
