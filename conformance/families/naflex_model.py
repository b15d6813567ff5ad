"""Layout and constructor arguments that the families of timm's NaFlexVit class share.

A NaFlexViT has positions for patches only, stored as a grid, and a linear patch embedding. Its tokens, patch embedding and
positions are under ``embeds``. The suite uses their classic names (:func:`canonical`). A classic checkpoint may have rows of
``pos_embed`` for its prefix tokens; a loader has to add them to the tokens themselves. Options are those of :mod:`.vit`, and:

    embed_class     whether a classic checkpoint's positions begin with rows of its prefix tokens; ``no_embed_class`` is
                    always true, as for the model
    projection      the model's patch embedding: "linear", "channels-first" (patches flattened in that order), or "conv"

Source: ``huggingface/pytorch-image-models`` ``timm/models/naflexvit.py``.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import asks, vit
from .base import KERNEL, Arch, State

if TYPE_CHECKING:
    from torch import Tensor

GRID = "pos_embed"
_EMBEDS = "embeds."
_TOKENS = ("cls_token", "reg_token")


def canonical(case: Case, state: State) -> State:
    """A NaFlexViT's tensors with classic names and positions as a list. A kernel of an unknown size stays as it is."""
    out = {}
    for key, tensor in state.items():
        name = key.removeprefix(_EMBEDS)
        if key != name and name.startswith(("proj.", "norm.")):
            name = f"patch_embed.{name}"
        if name == KERNEL and tensor.ndim == 2:
            tensor = _as_convolution(case, tensor)
        elif name == GRID and tensor.ndim == 4:
            tensor = tensor.flatten(1, 2)
        out[name] = tensor
    return out


def _as_convolution(case: Case, weight: Tensor) -> Tensor:
    channels = case.in_chans or case.arch.get("in_chans", 3)
    for height, width in (case.destination.patch_size, case.source.patch_size):
        if weight.shape[1] == height * width * channels:
            if case.arch.get("projection") == "channels-first":
                return weight.unflatten(1, (channels, height, width))
            return weight.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2).contiguous()
    return weight


def with_prefix_rows(case: Case, state: State) -> State:
    """Split each prefix token ``c`` into a token and a row of ``pos_embed`` whose sum is exactly ``c``.

    The two parts are ``2c`` and ``-c`` in the even channels, ``0`` and ``c`` in the odd ones. So neither part is a multiple of
    ``c``, which the norm of the first block would turn into the same token.
    """
    import torch

    if not case.arch["embed_class"] or GRID not in state:
        return state
    tokens = {name: state[name] for name in _TOKENS if name in state}
    part = torch.tensor([2, 0]).repeat(case.arch["embed_dim"] // 2)
    parts = {name: part.to(token) * token for name, token in tokens.items()}
    rows = [(1 - part).to(token) * token for token in tokens.values()]
    return state | parts | {GRID: torch.cat([*rows, state[GRID]], dim=1)}


def with_position_grid(case: Case, state: State) -> State:
    """Positions as a grid, as the checkpoint stores them."""
    return state | {GRID: state[GRID].unflatten(1, case.source.grid_size)}


def undecidable_patch(case: Case) -> str | None:
    """Why no loader could know the patch size: the columns of a linear kernel do not give its height and width."""
    (h, w), (new_h, new_w) = case.source.patch_size, case.destination.patch_size
    for asked in {3, case.in_chans or 3}:
        if h * w * 3 == new_h * new_w * asked and (h, w, 3) != (new_h, new_w, asked):
            return "a linear kernel with as many columns as the model's, of another patch"
    if (h, w) == (new_h, new_w):
        return None
    for asked in {case.in_chans or 3} - {3}:
        if isqrt(h * w * 3 // asked) ** 2 * asked == h * w * 3:
            return "a linear kernel that is also one of the model's channels, of a square patch"
    return None if h == w else "a linear kernel of a non-square patch"


def misread_tokens(case: Case) -> int | None:
    """Number of grid tokens under the other reading of the positions: a checkpoint does not say if they have prefix rows."""
    rows = vit.num_prefix_tokens(case.arch)
    tokens = case.source.tokens + (rows if case.arch["embed_class"] else -rows)
    return tokens if rows and tokens > 0 else None


def tags(case: Case) -> frozenset[str]:
    """Regimes: the model's patch embedding, prefix rows, and what the number of positions suggests.

    ``counts-mislead``: a loader that only looks for square numbers gets the prefix rows or the grid wrong, for the checkpoint
    or for one in the model's geometry; or there are fewer positions than prefix tokens. ``count-not-square``: no reading of
    the number is a square.
    """
    arch, prefix = case.arch, vit.num_prefix_tokens(case.arch)
    positions = arch.get("pos_embed") != "none"
    rows = prefix if arch["embed_class"] and positions else 0
    found = {f"projection-{arch['projection']}"} | ({"prefix-rows"} if rows else set())
    found |= {"class-and-registers"} if arch["class_token"] and arch["reg_tokens"] else set()
    for geometry in (case.source, case.destination) if positions else ():
        total = geometry.tokens + rows
        taken = prefix if not _square(total) and total >= prefix and _square(total - prefix) else 0
        if taken != rows or (_square(geometry.tokens) and len(set(geometry.grid_size)) > 1):
            found.add("counts-mislead")
    if positions:
        total = case.source.tokens + rows
        if total < prefix:
            found.add("counts-mislead")
        elif not _square(total) and not _square(total - prefix):
            found.add("count-not-square")
    return frozenset(found)


def _square(count: int) -> bool:
    return isqrt(count) ** 2 == count


_PROJECTIONS = ("projection-linear", "projection-conv", "projection-channels-first")
REGIMES = frozenset({"prefix-rows", "counts-mislead", "count-not-square", *_PROJECTIONS})


def needs(case: Case) -> tuple[str, str] | None:
    """Options that the first releases of the model lack."""
    if case.arch["projection"] == "channels-first":
        return "1.0.28", "patches flattened with their channels first"
    return None


PROJECTIONS = st.sampled_from(["linear"] * 4 + ["conv", "channels-first"])


def projection(arch: Arch) -> dict[str, Any]:
    """Arguments that only a NaFlexViT has: its patch embedding, and a grid as large as the image's."""
    kwargs = {"embed_proj_type": "conv" if arch.get("projection") == "conv" else "linear", "pos_embed_grid_size": None}
    return kwargs | ({"patchify_channels_last": False} if arch.get("projection") == "channels-first" else {})


def model_kwargs(arch: Arch) -> dict[str, Any]:
    """Arguments of timm's NaFlexVit constructor (and fields of its configuration) for ``arch``, without the geometry."""
    kwargs = vit.model_kwargs(arch)
    del kwargs["no_embed_class"]
    return kwargs | projection(arch)


def created_kwargs(arch: Arch) -> dict[str, Any]:
    """Arguments as a user of the classic model writes them."""
    classic = vit.model_kwargs({**arch, "no_embed_class": not arch["embed_class"]})
    return classic | projection(arch) | asks.NAFLEX
