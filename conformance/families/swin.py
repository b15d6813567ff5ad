"""Swin and Swin v2: upstream's checkpoints, and those that timm saves."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case, Geometry, Size
from . import asks, vit
from .base import Arch, Family, Shapes, Windows
from .shapes import Layout

# Side of a window where ``arch`` names none. No grid drawn freely is larger, so every stage is one window.
_WINDOW = 16
# Side of a window where the first stage has several, of which every second block shifts them.
_SMALL_WINDOW = 4
# Two stages would have a single merging, so its number could not be wrong. Older witnesses and vectors have two stages.
_STAGES = 3
_HIDDEN = 512  # channels of v2's network for biases


def _architectures(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Options of ``depth`` stages of one block, the last one of ``last_depth`` if that is given.

    ``embed_dim`` and ``num_heads`` are the first stage's; each further stage doubles them. With a ``window_size`` the first
    stage has two blocks, the second of which shifts its windows.
    """
    return vit.architectures(
        class_token=st.just(False),
        global_pool=st.just("avg"),
        pos_embed=st.just("none"),
        qkv_bias=st.sampled_from([True, True, False]),
        num_heads=st.sampled_from([2, 1]),
        window_size=st.sampled_from([_SMALL_WINDOW, _WINDOW]),
        **options,
    ).map(lambda arch: arch | {"depth": _STAGES})


def _side(arch: Arch) -> int:
    return arch.get("window_size", _WINDOW)


def _shifts(arch: Arch) -> bool:
    """Whether the first stage has a block that shifts its windows, if it has several."""
    return _side(arch) < _WINDOW


def _grids(arch: Arch, geometry: Geometry) -> list[Size]:
    """Grid ``(height, width)`` of each stage."""
    h, w = geometry.grid_size
    return [(-(-h // 2**stage), -(-w // 2**stage)) for stage in range(arch["depth"])]


def _windows(arch: Arch, geometry: Geometry) -> list[Size]:
    """Window ``(height, width)`` of each stage."""
    return [(min(h, _side(arch)), min(w, _side(arch))) for h, w in _grids(arch, geometry)]


def _no_output(case: Case) -> str | None:
    """Why timm's windows are not upstream's, which divide the grid of each stage and are square. timm pads the grid."""
    for grid, window in zip(_grids(case.arch, case.source), _windows(case.arch, case.source)):
        if any(side % part for side, part in zip(grid, window)):
            return "a grid that its windows do not divide, which upstream does not take"
        if window != grid and window[0] != window[1]:
            return "an oblong grid that upstream cuts into other windows"
    return None


def _depths(arch: Arch) -> tuple[int, ...]:
    """Number of blocks of each stage."""
    depths = [1] * arch["depth"]
    depths[0] = 2 if _shifts(arch) else 1
    depths[-1] = arch.get("last_depth", depths[-1])
    return tuple(depths)


def _tables(arch: Arch, geometry: Geometry) -> Windows:
    return {
        f"layers.{stage}.blocks.{block}.attn.relative_position_bias_table": window
        for stage, (window, depth) in enumerate(zip(_windows(arch, geometry), _depths(arch)))
        for block in range(depth)
    }


def _block(out: Layout, block: str, dim: int, heads: int, window: Size, arch: Arch, v2: bool) -> None:
    out.norm(f"{block}norm1", dim)
    out.linear(f"{block}attn.qkv", 3 * dim, dim, arch["qkv_bias"] and not v2)
    out.linear(f"{block}attn.proj", dim, dim)
    if v2:
        out[f"{block}attn.logit_scale"] = (heads, 1, 1)
        out.linear(f"{block}attn.cpb_mlp.0", _HIDDEN, 2)
        out.linear(f"{block}attn.cpb_mlp.2", heads, _HIDDEN, bias=False)
        if arch["qkv_bias"]:
            out[f"{block}attn.q_bias"] = out[f"{block}attn.v_bias"] = (dim,)
    else:
        out[f"{block}attn.relative_position_bias_table"] = (prod(2 * side - 1 for side in window), heads)
    out.norm(f"{block}norm2", dim)
    out.linear(f"{block}mlp.fc1", dim * arch["mlp_ratio"], dim)
    out.linear(f"{block}mlp.fc2", dim, dim * arch["mlp_ratio"])


def _shapes(arch: Arch, geometry: Geometry, v2: bool = False) -> Shapes:
    dim = arch["embed_dim"]
    out = Layout(dim)
    out["patch_embed.proj.weight"] = (dim, 3, *geometry.patch_size)
    out["patch_embed.proj.bias"] = (dim,)
    out.norm("patch_embed.norm")
    for stage, (window, depth) in enumerate(zip(_windows(arch, geometry), _depths(arch))):
        dim = arch["embed_dim"] * 2**stage
        if stage:
            out.linear(f"layers.{stage}.downsample.reduction", dim, 2 * dim, bias=False)
            out.norm(f"layers.{stage}.downsample.norm", dim if v2 else 2 * dim)
        for number in range(depth):
            _block(out, f"layers.{stage}.blocks.{number}.", dim, arch["num_heads"] * 2**stage, window, arch, v2)
    out.norm("norm", dim)
    if arch["num_classes"]:
        out.linear("head.fc", arch["num_classes"], dim)
    return out


def _model_kwargs(arch: Arch) -> dict[str, Any]:
    return {
        "embed_dim": arch["embed_dim"],
        "depths": _depths(arch),
        "num_heads": tuple(arch["num_heads"] * 2**stage for stage in range(arch["depth"])),
        "mlp_ratio": arch["mlp_ratio"],
        "num_classes": arch["num_classes"],
        "qkv_bias": arch["qkv_bias"],
        "window_size": _side(arch),
    }


def _v2_kwargs(arch: Arch) -> dict[str, Any]:
    """Arguments for ``arch``. A ``pretrained_window`` of 0, as of the models trained at one size, means the window itself."""
    return _model_kwargs(arch) | {"pretrained_window_sizes": (arch["pretrained_window"],) * arch["depth"]}


def _masks(arch: Arch) -> Shapes:
    """The attention mask of shifted windows, a buffer that upstream stores, where the model of the case has none."""
    return {} if _shifts(arch) else {"layers.0.blocks.1.attn_mask": (4, 49, 49)}


def _without_masks(case: Case) -> tuple[str, str] | None:
    """Models stored their masks as well until 0.9.5, and took no file without."""
    return ("0.9.6", "files without the masks of shifted windows") if _shifts(case.arch) else None


def _other_window(case: Case) -> str | None:
    """Why no loader could know the window: timm saves any shape, and the model's window has as many offsets as the table."""
    for old, new in zip(_windows(case.arch, case.source), _windows(case.arch, case.destination)):
        rows = [(2 * h - 1) * (2 * w - 1) for h, w in (old, new)]
        if old != new and rows[0] == rows[1]:
            return "a table with as many rows as the model's, of another window"
    return None


def _no_scale(case: Case) -> str | None:
    """Why no loaded model could be run: upstream divides offsets by the window's side less one, which is 0 for a side of 1."""
    sides = {side for window in _windows(case.arch, case.source) for side in window}
    alone = case.native and not case.arch["pretrained_window"] and 1 in sides
    return (
        "a window with a side of one token, and no pretrained_window_sizes: its offsets have no scale"
        if alone
        else None
    )


SWIN = Family(
    name="swin",
    # swin_transformer.py and its V2 renamed keys in 0.9.0; tables are resized since 0.9.6, kernels since 0.9.8.
    source="microsoft/Swin-Transformer models/swin_transformer.py",
    ambiguity=(
        "upstream's windows are square, so a table of as many rows as a square's is one. A table that timm has saved need not be."
    ),
    known_since="0.9.0",
    complete_since="0.9.8",
    architectures=_architectures(),
    shapes=_shapes,
    num_prefix_tokens=vit.num_prefix_tokens,
    model_kwargs=_model_kwargs,
    asks=lambda arch: asks.flags(arch, qkv_bias=True),
    with_blocks=lambda arch, count: {**arch, "last_depth": count},
    models=("swin_*",),
    module="swin_transformer",
    model_class="SwinTransformer",
    foreign=_masks,
    needs=_without_masks,
    square_source_grid=True,
    in_forward=(),
    no_output=_no_output,
    square_grids="often",
    grid_multiple=2 ** (_STAGES - 1),
    tables=_tables,
    tags=lambda case: frozenset() if case.arch["num_classes"] else frozenset({"headless"}),
    own_regimes=frozenset({"headless"}),
    unreachable=frozenset(
        {
            "prefix-1",
            "prefix-1+R",
            "source-grid-non-square",
            "square-count-non-square",
            "native-identity:destination-grid-non-square",
            "rel-pos-identity:destination-grid-non-square",
        }
    ),
    weight=0.22,
)

SWIN_NATIVE = replace(
    SWIN,
    name="swin_native",
    # Until 0.9.5 a model saves the buffers of its windows, too.
    known_since="0.9.6",
    source="huggingface/pytorch-image-models timm/models/swin_transformer.py",
    foreign=lambda arch: {},
    undecidable=_other_window,
    weight=0.22,
)

SWIN_V2 = replace(
    SWIN,
    name="swin_v2",
    source="microsoft/Swin-Transformer models/swin_transformer_v2.py",
    needs=lambda case: None,
    architectures=_architectures(pretrained_window=st.sampled_from([8, 12, 0])),
    shapes=lambda arch, geometry: _shapes(arch, geometry, v2=True),
    model_kwargs=_v2_kwargs,
    models=("swinv2_*",),
    module="swin_transformer_v2",
    model_class="SwinTransformerV2",
    tables=lambda arch, geometry: {},
    ambiguity="",
    undecidable=_no_scale,
    weight=0.3,
)

SWIN_V2_NATIVE = replace(
    SWIN_V2,
    name="swin_v2_native",
    source="huggingface/pytorch-image-models timm/models/swin_transformer_v2.py",
    foreign=lambda arch: {},
    weight=0.22,
)

FAMILIES = (SWIN, SWIN_NATIVE, SWIN_V2, SWIN_V2_NATIVE)
