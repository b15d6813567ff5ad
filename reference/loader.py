"""The corrected loader: unwrap -> detect -> decode -> resample -> complete.

Every format goes through the same resampling, whatever its conversion: the promise timm 0.9.x broke (timm issue #2120).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt, prod

import torch
from torch import Tensor, nn

from . import naflex
from .detect import CLASSIFIERS, detect, unwrap
from .embeddings import (
    adapt_input_channels,
    resample_patch_kernel,
    resample_position_grid,
    resample_position_window,
)
from .errors import LoadError, some
from .formats import Facts, Format
from .formats.naflex_native import NAFLEX_NATIVE, to_model
from .relative import offsets, resize_axis_table, resize_bias_table
from .resize import Resampling

_KERNEL = "patch_embed.proj.weight"
_GRID = "pos_embed"
_TABLE = "relative_position_bias_table"
_AXIS_TABLES = (".rel_pos_h", ".rel_pos_w")
# Models without a bias of queries and values take checkpoints in which it was trained to nothing (DINOv3).
_ATTENTION_BIASES = (".q_bias", ".v_bias")
# The convolution that meets the image: of a plain model, of a ResNet stem alone or in front of its stages, of MobileCLIP's.
_FIRST = (
    _KERNEL,
    "patch_embed.backbone.conv.weight",
    "patch_embed.backbone.stem.conv.weight",
    "patch_embed.backbone.0.conv.weight",
)
# A float8 is no number without its scale.
_WEIGHTS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Destination:
    """What the loader needs to know of a model: every tensor's shape, its patch, grid and window sizes.

    ``shapes`` are by the names a VisionTransformer gives its tensors; ``naflex`` is set for a model with its own.
    ``patch_size`` is the kernel's; ``stride`` says how many pixels one pixel of it stands for, above 1 behind a
    convolutional stem. Without a kernel of its own (MobileCLIP) the stem is the patch embedding: patch size 1. ``windows``
    are those of its relative position bias tables, by the table's name; ``floating`` are the tensors that are no integers.
    """

    shapes: Mapping[str, tuple[int, ...]]
    patch_size: tuple[int, int]
    grid_size: tuple[int, int]
    stride: tuple[int, int]
    in_chans: int
    windows: Mapping[str, tuple[int, int]]
    floating: frozenset[str]
    naflex: Facts | None

    @classmethod
    def of(cls, model: nn.Module) -> Destination:
        """Read a timm VisionTransformer, or anything with its attributes. Raises :class:`LoadError`."""
        tensors = model.state_dict()
        if NAFLEX_NATIVE.evidence(tensors):
            embeds = model.embeds
            last = getattr(embeds, "channels_last", True)
            facts = Facts(embeds.in_chans, tuple(embeds.patch_size), channels_last=last)
            classic = NAFLEX_NATIVE.decode({k: v.to("meta") for k, v in tensors.items()}, facts)
            shapes = {k: tuple(v.shape) for k, v in classic.items()}
            grid = tuple(embeds.pos_embed_grid_size or (1, 1))
            return cls(shapes, facts.patch_size, grid, (1, 1), facts.in_chans, {}, _floating(classic), facts)
        shapes = {k: tuple(v.shape) for k, v in tensors.items()}
        embed = getattr(model, "patch_embed", None)
        grid, image = getattr(embed, "grid_size", None), getattr(embed, "img_size", None)
        first = next((k for k in reversed(_FIRST) if len(shapes.get(k, ())) == 4), None)
        if grid is None or first is None or (_KERNEL in shapes and len(shapes[_KERNEL]) != 4):
            raise LoadError(
                f"{type(model).__name__} is no Vision Transformer: it needs patch_embed.grid_size and {_KERNEL}"
            )
        patch = shapes[_KERNEL][-2:] if _KERNEL in shapes else (1, 1)
        stride = tuple(i // (g * p) for i, g, p in zip(image, grid, patch)) if image else (1, 1)
        owners = {k: model.get_submodule(k.removesuffix(_TABLE).rstrip(".")) for k in shapes if k.endswith(_TABLE)}
        windows = {k: tuple(owner.window_size) for k, owner in owners.items()}
        return cls(shapes, patch, tuple(grid), stride, shapes[first][1], windows, _floating(tensors), None)


def _floating(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    return frozenset(k for k, v in tensors.items() if v.is_floating_point())


def load_state_dict(
    checkpoint: Mapping,
    model: nn.Module,
    *,
    input_size: tuple[int, int] | None = None,
    resampling: Resampling | None = None,
    keep_classifier: bool = False,
) -> dict[str, Tensor]:
    """The state dict that ``model.load_state_dict(..., strict=True)`` needs, from a checkpoint of any known format.

    ``input_size`` is the image size ``(height, width)`` the checkpoint was trained at; by default what the model declares
    in ``pretrained_cfg["input_size"]``. It decides the source grid where the number of position tokens alone does not:

    1. declared, and ``input_size // patch_size`` accounts for every token: that grid (an ``input_size`` passed here must);
    2. as many tokens as the model has: the model's own grid, so without a declaration, or with a true one, a model's own
       checkpoint always reloads unchanged;
    3. a square number of tokens: that square; anything else is undecidable and an error.

    ``resampling`` is the format's own unless given: FlexiViT weights in timm's layout want ``BILINEAR``, and nothing in
    them says so. A model for images of other channels gets its first convolution adapted; with ``keep_classifier`` it keeps
    its own classifier, whose number of classes may then differ.

    ``checkpoint`` is never modified; tensors that need no change are returned as they are. dtype and device are kept.
    Raises :class:`LoadError`, one line, when the format is unknown or the result would not fit the model.
    """
    destination = Destination.of(model)
    state_dict = unwrap(checkpoint)
    facts = destination.naflex or Facts(in_chans=destination.in_chans, patch_size=destination.patch_size)
    form = detect(state_dict, destination.shapes)
    how = resampling or form.resampling
    state = form.decode(state_dict, facts)
    representation = [k for k in state_dict if k.startswith("pre_logits")]
    if representation and "head.weight" in state and "head.weight" in destination.shapes and not keep_classifier:
        raise LoadError(
            f"the classifier reads the output of {some(representation)}, a layer the model does not have: load into a model "
            "with num_classes=0, or pass keep_classifier=True"
        )
    if keep_classifier:
        own = {k: v for k, v in model.state_dict().items() if k.startswith(CLASSIFIERS)}
        state = {k: v for k, v in state.items() if not k.startswith(CLASSIFIERS)} | own
    state = _for_model(state, destination)
    declared = _declared(input_size, model)
    source_patch = (1, 1)
    if _KERNEL in state:
        source_patch = tuple(state[_KERNEL].shape[-2:])
        state[_KERNEL] = resample_patch_kernel(state[_KERNEL], destination.patch_size, how)
    pixels = (source_patch[0] * destination.stride[0], source_patch[1] * destination.stride[1])
    claimed = (declared[0] // pixels[0], declared[1] // pixels[1]) if declared else None
    if _GRID in state:
        state = _with_grid(state, destination, form, claimed, input_size, how)
    state = _with_tables(state, destination, form, claimed)
    state = _complete(_with_channels(state, destination), destination)
    return to_model(state, model.state_dict(), facts) if destination.naflex else state


def _declared(input_size: tuple[int, int] | None, model: nn.Module) -> tuple[int, int] | None:
    """The checkpoint's image size ``(height, width)``, as passed or as the model declares it."""
    declared = input_size or (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    return (declared[-2], declared[-1]) if declared else None


def _with_grid(
    state: dict[str, Tensor],
    destination: Destination,
    form: Format,
    claimed: tuple[int, int] | None,
    insisted: tuple[int, int] | None,
    how: Resampling,
) -> dict[str, Tensor]:
    """Positions resampled to the model's grid, and stored as the model stores them: as a list of tokens or as a grid."""
    position, new = state[_GRID], destination.grid_size
    as_grid = position.ndim == 4
    old = tuple(position.shape[1:3]) if as_grid else None
    position = position.flatten(1, 2) if as_grid else position
    rows = destination.shapes[_GRID][1] - new[0] * new[1] if len(destination.shapes[_GRID]) == 3 else 0
    if destination.naflex and not as_grid and not form.windowed:
        stored = naflex.prefix_rows(state, new, claimed, form.prefix_rows)
        state, position = naflex.fold_prefix_rows(state, stored)
    if form.windowed and not as_grid:
        side = isqrt(position.shape[1])
        if side * side != position.shape[1]:
            raise LoadError(f"the {form.name} format has a square of position tokens, not {position.shape[1]}")
        position = resample_position_window(position, (side, side), new, how)
    else:
        old = old or _source_grid(position.shape[1] - rows, new, claimed, insisted)
        position = resample_position_grid(position, old, new, rows, how)
    return state | {_GRID: position.unflatten(1, new) if len(destination.shapes[_GRID]) == 4 else position}


def _with_tables(
    state: dict[str, Tensor], destination: Destination, form: Format, claimed: tuple[int, int] | None
) -> dict[str, Tensor]:
    """Relative position biases resized to the model's windows."""
    resized = {}
    for key, window in destination.windows.items():
        extra = destination.shapes[key][0] - prod(offsets(window))
        known = () if form.square_windows else tuple(filter(None, (claimed, window)))
        old = _source_window(key, len(state[key]) - extra, known)
        resized[key] = resize_bias_table(state[key], old, window)
    for key in state:
        if key.endswith(_AXIS_TABLES):
            resized[key] = resize_axis_table(state[key], (destination.shapes[key][0] + 1) // 2)
    return state | resized


def _with_channels(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """The first convolution adapted to the model's input channels."""
    first = next((k for k in reversed(_FIRST) if k in state), None)
    if first is None or state[first].ndim != 4:
        return state
    return state | {first: adapt_input_channels(state[first], destination.shapes[first][1])}


def _for_model(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """Drop a classifier or zero biases the model has no place for; refuse other names, and what cannot be resampled."""
    shapes = destination.shapes
    for head in CLASSIFIERS:
        if not any(name.startswith(head) for name in shapes):
            state = {k: v for k, v in state.items() if not k.startswith(head)}
    state = {k: v for k, v in state.items() if k in shapes or not (k.endswith(_ATTENTION_BIASES) and _is_zero(v))}
    names = (("missing", [k for k in shapes if k not in state]), ("unexpected", [k for k in state if k not in shapes]))
    if any(found for _, found in names):
        raise LoadError("checkpoint does not fit the model: " + "; ".join(f"{t}: {some(n)}" for t, n in names if n))
    integers = [k for k, v in state.items() if k in destination.floating and v.dtype not in _WEIGHTS]
    if integers:
        found = some(f"{k} {str(state[k].dtype).removeprefix('torch.')}" for k in integers)
        raise LoadError(
            f"weights are floating point numbers of at least 16 bits, convert the checkpoint first: {found}"
        )
    for key, ndims in ((_KERNEL, (4,)), (_GRID, {3, len(shapes.get(_GRID, ()))})):
        if key in state and (state[key].ndim not in ndims or (key == _GRID and len(state[key]) != 1)):
            raise LoadError(f"{key} has shape {tuple(state[key].shape)}, which is none of a Vision Transformer")
    return state


def _is_zero(tensor: Tensor) -> bool:
    """Whether a bias adds nothing; one on the meta device, of which nobody knows, is given the benefit of the doubt."""
    return tensor.is_meta or not bool(tensor.any())


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
            f"input_size {tuple(insisted)} is not the checkpoint's: it gives {claimed[0]}x{claimed[1]} position tokens, "
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
    """The window whose offsets fill ``rows`` rows of a bias table: a ``known`` one (declared, the model's), else a square."""
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


def _complete(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """Refuse what a strict load would refuse."""
    shapes = destination.shapes
    wrong = [f"{k} is {tuple(v.shape)}, the model has {shapes[k]}" for k, v in state.items() if v.shape != shapes[k]]
    if wrong:
        raise LoadError(f"checkpoint does not fit the model: {some(wrong)}")
    return state
