"""Google's ``.npz`` checkpoints that are loaded into a NaFlexViT: from vision_transformer, big_vision and its NaFlex model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import asks, naflex_model
from .base import KERNEL, Family, State
from .google_npz import BIG_VISION, GOOGLE_NPZ

_PROJECTIONS = st.sampled_from(["linear", "conv", "channels-first"])


@st.composite
def _architectures(draw: st.DrawFn, classic: Family, rows: bool = False) -> dict[str, Any]:
    """Options of the classic family. ``rows`` tells whether its positions begin with a row for the class token."""
    return draw(classic.architectures) | {
        "no_embed_class": True,
        "embed_class": rows,
        "projection": draw(_PROJECTIONS, label="projection"),
    }


def _into_naflex(classic: Family, **more: Any) -> Family:
    """The family of the checkpoints of ``classic``, loaded into a NaFlexViT."""
    return replace(
        classic,
        source=f"{classic.source} (into timm/models/naflexvit.py)",
        shares_format=classic.format,
        classic=classic.name,
        # NaFlexVit.load_pretrained has been there since 1.0.16; 1.0.29 reads .npz files in it.
        known_since="1.0.16",
        complete_since="1.0.29",
        model_kwargs=naflex_model.model_kwargs,
        created_kwargs=naflex_model.created_kwargs,
        asks=asks.naflex,
        module="naflexvit",
        model_class="NaFlexVit",
        models_module="vision_transformer",
        canonical=naflex_model.canonical,
        in_forward=(),
        tags=lambda case: classic.tags(case) | naflex_model.tags(case),
        **more,
    )


NAFLEX_NPZ_GOOGLE = _into_naflex(
    GOOGLE_NPZ,
    name="naflex_npz_google",
    architectures=_architectures(GOOGLE_NPZ, rows=True),
    stored=naflex_model.with_prefix_rows,
    forward_arch=lambda case: {"pre_logits": False, "no_embed_class": False},
    own_regimes=GOOGLE_NPZ.own_regimes | naflex_model.REGIMES,
    weight=0.25,
)

NAFLEX_NPZ = _into_naflex(
    BIG_VISION,
    name="naflex_npz",
    architectures=_architectures(BIG_VISION),
    own_regimes=BIG_VISION.own_regimes | naflex_model.REGIMES - {"prefix-rows"},
    weight=0.2,
)


def _dense(case: Case, state: State) -> State:
    """A dense patch kernel over (row, column, channel), and positions as a grid. A grid of one row looks like a list."""
    kernel = state[KERNEL].permute(0, 2, 3, 1).flatten(1)
    listed = case.source.grid_size[0] == 1
    return (state if listed else naflex_model.with_position_grid(case, state)) | {KERNEL: kernel}


def _undecidable_dense(case: Case) -> str | None:
    """Why no loader could know the geometry.

    Beside the reasons for any linear kernel, a grid of one row is stored like a list. The same holds for a grid of one column
    once height and width are exchanged.
    """
    if min(case.source.grid_size) == 1 < max(case.source.grid_size):
        return "a grid of one row is stored like a list of tokens"
    return naflex_model.undecidable_patch(case)


NAFLEX_NPZ_DENSE = replace(
    NAFLEX_NPZ,
    name="naflex_npz_dense",
    source="google-research/big_vision big_vision/models/proj/image_text/naflex_vit.py",
    classic="",
    architectures=_architectures(BIG_VISION).filter(lambda arch: not arch["class_token"]),
    created_kwargs=lambda arch: naflex_model.model_kwargs(arch) | asks.NAFLEX,
    square_patch="resampled",
    grid_stored=True,
    stored=_dense,
    undecidable=_undecidable_dense,
    forward_arch=lambda case: {"pre_logits": False, "patch_size": case.source.patch_size},
    own_regimes=NAFLEX_NPZ.own_regimes - {"pool-token"},
    unreachable=BIG_VISION.unreachable | {"prefix-1"},
    weight=0.15,
)

FAMILIES = (NAFLEX_NPZ_GOOGLE, NAFLEX_NPZ, NAFLEX_NPZ_DENSE)
