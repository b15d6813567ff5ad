"""Segment Anything's image encoder, with positions as a grid, relative positions for each axis, windows and a neck."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case, Geometry
from . import asks, vit
from .base import Arch, Family, Shapes, State, Windows

_GRID = "pos_embed"


def _sides(arch: Arch) -> tuple[int, ...]:
    """Window side of each block; 0 for attention over the whole grid."""
    depth = arch["depth"]
    first = {"none": depth, "last": depth - 1, "all": 0}[arch["global_blocks"]]
    return tuple(arch["window_size"] if i < first else 0 for i in range(depth))


def _tables(arch: Arch, geometry: Geometry) -> Windows:
    out: Windows = {}
    for i, side in enumerate(_sides(arch)):
        for axis, length in zip("hw", geometry.grid_size):
            out[f"blocks.{i}.attn.rel_pos_{axis}"] = (side or length,)
    return out


def _shapes(arch: Arch, geometry: Geometry) -> Shapes:
    width, head_dim = arch["neck_chans"], arch["embed_dim"] // arch["num_heads"]
    out = {k: v for k, v in vit.shapes(arch, geometry).items() if not k.startswith("norm.")}
    out |= {name: (2 * window[0] - 1, head_dim) for name, window in _tables(arch, geometry).items()}
    out |= {"neck.0.weight": (width, arch["embed_dim"], 1, 1), "neck.2.weight": (width, width, 3, 3)}
    return out | {f"neck.{n}.{part}": (width,) for n in (1, 3) for part in ("weight", "bias")}


def _model_kwargs(arch: Arch) -> dict[str, Any]:
    from torch import nn

    return {
        "embed_dim": arch["embed_dim"],
        "depth": arch["depth"],
        "num_heads": arch["num_heads"],
        "mlp_ratio": arch["mlp_ratio"],
        "num_classes": 0,
        "qkv_bias": arch.get("qkv_bias", True),
        "use_rel_pos": True,
        "window_size": arch["window_size"],
        "global_attn_indexes": tuple(i for i, side in enumerate(_sides(arch)) if not side),
        "neck_chans": arch["neck_chans"],
        # Upstream's value is 1e-6, timm's own models have PyTorch's 1e-5. A loader cannot change that.
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    }


def _stored(case: Case, state: State) -> State:
    return state | {_GRID: state[_GRID].unflatten(1, case.source.grid_size)}


def _canonical(case: Case, state: State) -> State:
    grid = state.get(_GRID)
    return state | {_GRID: grid.flatten(1, 2)} if grid is not None and grid.ndim == 4 else state


def _beside(arch: Arch) -> Shapes:
    return {
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 4),
        "prompt_encoder.no_mask_embed.weight": (1, 8),
        "mask_decoder.iou_token.weight": (1, 8),
        "mask_decoder.transformer.layers.0.mlp.lin1.weight": (16, 8),
        "pixel_mean": (3, 1, 1),
        "pixel_std": (3, 1, 1),
    }


def _tags(case: Case) -> frozenset[str]:
    return frozenset({f"global-{case.arch['global_blocks']}"})


SAM = Family(
    name="sam",
    source="facebookresearch/segment-anything segment_anything/modeling/image_encoder.py",
    known_since="0.9.5",
    architectures=vit.architectures(
        class_token=st.just(False),
        num_classes=st.just(0),
        window_size=st.sampled_from([2, 3, 1]),
        global_blocks=st.sampled_from(["last", "none", "all"]),
        neck_chans=st.sampled_from([8, 4]),
    ),
    shapes=_shapes,
    num_prefix_tokens=vit.num_prefix_tokens,
    model_kwargs=_model_kwargs,
    asks=lambda arch: asks.depths(arch) + asks.flags(arch, qkv_bias=True),
    models=("samvit_*.sa1b",),
    module="vision_transformer_sam",
    model_class="VisionTransformerSAM",
    foreign=_beside,
    wrappers=("bare",),
    grid_stored=True,
    tables=_tables,
    stored=_stored,
    canonical=_canonical,
    forward_arch=lambda case: {"windows": _sides(case.arch)},
    tags=_tags,
    own_regimes=frozenset({"global-none", "global-last", "global-all"}),
    in_forward=(),
    unreachable=frozenset({"wrapped", "prefix-1", "prefix-1+R", "door-set-input-size"}),
    weight=0.3,
)

FAMILIES = (SAM,)
