"""The corrected loader: open -> detect -> decode -> resample -> complete.

Every format goes through the same resampling after its own conversion. timm 0.9.x violated this (timm issue #2120).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import isqrt, prod

import torch
from torch import Tensor, nn

from . import prefix_rows
from .destination import FIRST, KERNEL, Destination
from .detect import CLASSIFIERS, detect
from .embeddings import (
    adapt_input_channels,
    resample_patch_kernel,
    resample_position_grid,
    resample_position_window,
)
from .entries import Opened, open_checkpoint
from .errors import LoadError, some
from .fit import complete, for_model
from .formats import Format
from .formats.naflex_native import to_model
from .relative import offsets, resize_axis_table, resize_bias_table
from .resize import Resampling

_GRID = "pos_embed"
_AXIS_TABLES = (".rel_pos_h", ".rel_pos_w")


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Keep autocast of the caller's away: it rounds products of weights, and refuses to join half-precision tensors."""
    on_gpu = torch.autocast("cuda", enabled=False) if torch.cuda.is_initialized() else nullcontext()
    with torch.autocast("cpu", enabled=False), on_gpu:
        yield


@dataclass(frozen=True)
class Source:
    """A checkpoint as read for a model, before anything is resampled.

    ``state`` has the tensor names of a VisionTransformer. Its positions are a list of ``prefix_rows`` rows, then the rows of a
    grid of ``grid_size`` (None without positions). ``patch_size`` is that of its kernel. ``windows`` are those of its relative
    position bias tables, by the table's name. ``entry`` and ``prefix`` say where in the checkpoint its tensors were found
    (:class:`.entries.Opened`).
    """

    format: Format
    resampling: Resampling
    state: dict[str, Tensor]
    patch_size: tuple[int, int]
    grid_size: tuple[int, int] | None
    prefix_rows: int
    windows: Mapping[str, tuple[int, int]]
    entry: tuple[str, ...] = ()
    prefix: str = ""

    @classmethod
    @_without_autocast()
    def of(
        cls,
        checkpoint: Mapping,
        model: nn.Module,
        *,
        input_size: tuple[int, int] | None = None,
        resampling: Resampling | None = None,
        keep_classifier: bool = False,
    ) -> Source:
        """Read a checkpoint as :func:`load_state_dict` does, with its arguments. Raises :class:`LoadError`."""
        return _read(checkpoint, model, Destination.of(model), input_size, resampling, keep_classifier)

    @_without_autocast()
    def fitted(self, model: nn.Module) -> dict[str, Tensor]:
        """The result of :func:`load_state_dict` for the model that it was read for. Raises :class:`LoadError`."""
        return _fitted(self, model, Destination.of(model))


@_without_autocast()
def load_state_dict(
    checkpoint: Mapping,
    model: nn.Module,
    *,
    input_size: tuple[int, int] | None = None,
    resampling: Resampling | None = None,
    keep_classifier: bool = False,
) -> dict[str, Tensor]:
    """The state dict that ``model.load_state_dict(..., strict=True)`` needs, from a checkpoint of any known format.

    ``input_size`` is the image size ``(height, width)`` that the checkpoint was trained at. Its default is the model's
    declaration, ``pretrained_cfg["input_size"]``. The source grid follows from the first rule that applies:

    1. an input size is declared, and ``input_size // patch_size`` accounts for every position token: that grid. An
       ``input_size`` passed here must account for them;
    2. the model has as many tokens: the model's grid. So without a declaration, or with a true one, a model's own checkpoint
       always loads unchanged;
    3. the number of tokens is square: that square. Any other number is undecidable and an error.

    ``resampling`` is the format's own unless given. FlexiViT weights in timm's layout need ``BILINEAR``, which their tensors do
    not show. If the model has another number of input channels, the first convolution is adapted. With ``keep_classifier``
    the model keeps its own classifier, whose number of classes may differ.

    ``checkpoint`` is never modified. Tensors that need no change are returned as they are. dtype and device are kept, whatever
    torch's defaults are, and autocast does not reach the load.
    Raises :class:`LoadError`, one line, if the format is unknown or the result would not fit the model. It names the wrapper and
    the prefix without which the names were read.
    """
    destination = Destination.of(model)
    source = _read(checkpoint, model, destination, input_size, resampling, keep_classifier)
    return _fitted(source, model, destination)


def _read(
    checkpoint: Mapping,
    model: nn.Module,
    destination: Destination,
    input_size: tuple[int, int] | None,
    resampling: Resampling | None,
    keep_classifier: bool,
) -> Source:
    opened = open_checkpoint(checkpoint)
    try:
        return _read_opened(opened, model, destination, input_size, resampling, keep_classifier)
    except LoadError as error:
        if opened.where:
            raise LoadError(f"{error} ({opened.where})") from error
        raise


def _read_opened(
    opened: Opened,
    model: nn.Module,
    destination: Destination,
    input_size: tuple[int, int] | None,
    resampling: Resampling | None,
    keep_classifier: bool,
) -> Source:
    state_dict = opened.state
    form = detect(state_dict, destination.shapes)
    state = form.decode(state_dict, destination.facts)
    representation = [k for k in state_dict if "pre_logits" in k]
    if representation and "head.weight" in state and "head.weight" in destination.shapes and not keep_classifier:
        raise LoadError(
            f"the classifier reads the output of {some(representation)}, a layer the model does not have: load into a model "
            "with num_classes=0, or pass keep_classifier=True"
        )
    if keep_classifier:
        own = {k: v for k, v in model.state_dict().items() if k.startswith(CLASSIFIERS)}
        state = {k: v for k, v in state.items() if not k.startswith(CLASSIFIERS)} | own
    state = for_model(state, destination)
    declared = _declared(input_size, model)
    kernel = state.get(KERNEL)
    patch_size = (1, 1) if kernel is None else (kernel.shape[-2], kernel.shape[-1])
    pixels = (patch_size[0] * destination.stride[0], patch_size[1] * destination.stride[1])
    claimed = (declared[0] // pixels[0], declared[1] // pixels[1]) if declared else None
    state, grid, rows = _positions(state, destination, form, claimed, input_size)
    windows = _windows(state, destination, form, claimed)
    how = resampling or form.resampling
    return Source(form, how, state, patch_size, grid, rows, windows, opened.entry, opened.prefix)


def _declared(input_size: tuple[int, int] | None, model: nn.Module) -> tuple[int, int] | None:
    """The checkpoint's image size ``(height, width)``, as passed, else as the model declares it; None if neither does."""
    declared = input_size or (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    return (declared[-2], declared[-1]) if declared else None


def _fitted(source: Source, model: nn.Module, destination: Destination) -> dict[str, Tensor]:
    state = _resampled(source, destination)
    state = complete(_with_channels(state, destination), destination)
    return to_model(state, model.state_dict(), destination.facts) if destination.naflex else state


def _positions(
    state: dict[str, Tensor],
    destination: Destination,
    form: Format,
    claimed: tuple[int, int] | None,
    insisted: tuple[int, int] | None,
) -> tuple[dict[str, Tensor], tuple[int, int] | None, int]:
    """The state with its positions as a list of tokens, their grid, and the rows of prefix tokens in front of it."""
    if _GRID not in state:
        return state, None, 0
    position, new = state[_GRID], destination.grid_size
    rows = destination.shapes[_GRID][1] - new[0] * new[1] if len(destination.shapes[_GRID]) == 3 else 0
    if position.ndim == 4:
        return state | {_GRID: position.flatten(1, 2)}, (position.shape[1], position.shape[2]), rows
    if form.windowed or form.square_grid:
        side = isqrt(position.shape[1])
        if side * side != position.shape[1]:
            raise LoadError(f"the {form.name} format has a square of position tokens, not {position.shape[1]}")
        return state, (side, side), 0
    if destination.naflex:
        stored = prefix_rows.stored_rows(state, new, claimed, form.prefix_rows)
        state, position = prefix_rows.fold(state, stored)
    else:
        prefix_rows.check(state, rows, claimed)
    return state | {_GRID: position}, _source_grid(position.shape[1] - rows, new, claimed, insisted), rows


def _windows(
    state: Mapping[str, Tensor], destination: Destination, form: Format, claimed: tuple[int, int] | None
) -> dict[str, tuple[int, int]]:
    """The windows of a checkpoint's relative position bias tables."""
    found = {}
    for key, window in destination.windows.items():
        extra = destination.shapes[key][0] - prod(offsets(window))
        known = () if form.square_windows else tuple(w for w in (claimed, window) if w and all(w))
        found[key] = _source_window(key, len(state[key]) - extra, known)
    return found


def _resampled(source: Source, destination: Destination) -> dict[str, Tensor]:
    """The checkpoint resampled to the model's patch, grid and windows. Positions become a list or a grid, as in the model."""
    state, new, how = dict(source.state), destination.grid_size, source.resampling
    if KERNEL in state:
        state[KERNEL] = resample_patch_kernel(state[KERNEL], destination.patch_size, how)
    if source.grid_size is not None:
        if source.format.windowed:
            position = resample_position_window(state[_GRID], source.grid_size, new, how)
        else:
            position = resample_position_grid(state[_GRID], source.grid_size, new, source.prefix_rows, how)
        state[_GRID] = position.unflatten(1, new) if len(destination.shapes[_GRID]) == 4 else position
    for key, old in source.windows.items():
        state[key] = resize_bias_table(state[key], old, destination.windows[key])
    for key in state:
        if key.endswith(_AXIS_TABLES):
            state[key] = resize_axis_table(state[key], (destination.shapes[key][0] + 1) // 2)
    return state


def _with_channels(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """The state with its first convolution adapted to the model's input channels."""
    first = next(k for k in reversed(FIRST) if k in state)
    return state | {first: adapt_input_channels(state[first], destination.shapes[first][1])}


def _source_grid(
    tokens: int, model_grid: tuple[int, int], claimed: tuple[int, int] | None, insisted: tuple[int, int] | None
) -> tuple[int, int]:
    """The grid of ``tokens`` position tokens, by the three rules of :func:`load_state_dict`."""
    if tokens < 1:
        raise LoadError("pos_embed has fewer rows than the model has prefix tokens: the model has other prefix tokens")
    if claimed and claimed[0] * claimed[1] == tokens:
        return claimed
    if insisted is not None:
        raise LoadError(
            f"input_size {tuple(insisted)} is not the checkpoint's: it gives {claimed[0]}x{claimed[1]} position tokens, "  # type: ignore[index] # claimed is insisted's
            f"the checkpoint has {tokens}"
        )
    if tokens == model_grid[0] * model_grid[1]:
        return model_grid
    if isqrt(tokens) ** 2 == tokens:
        return isqrt(tokens), isqrt(tokens)
    raise LoadError(
        f"{tokens} position tokens form no square grid and the declared input size does not explain them: "
        "pass input_size=(height, width) of the checkpoint"
    )


def _source_window(key: str, rows: int, known: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The window with ``rows`` offsets in its bias table: one of the ``known`` (declared, the model's), else a square."""
    for window in known:
        if prod(offsets(window)) == rows:
            return window
    side = isqrt(max(rows, 0))
    if side % 2 and side * side == rows:
        return (side + 1) // 2, (side + 1) // 2
    raise LoadError(
        f"the {rows} rows of {key} are the offsets of no square window and the declared input size does not explain them: "
        "pass input_size=(height, width) of the checkpoint"
    )
