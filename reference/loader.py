"""The corrected loader: unwrap -> detect -> decode -> resample -> complete.

Every format goes through the same resampling, whatever its conversion: the promise timm 0.9.x broke (timm issue #2120).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

from torch import Tensor, nn

from .detect import detect, unwrap
from .embeddings import (
    adapt_input_channels,
    resample_patch_kernel,
    resample_position_grid,
    resample_position_window,
)
from .errors import LoadError, some
from .formats import Facts
from .resize import Resampling

_KERNEL = "patch_embed.proj.weight"
_GRID = "pos_embed"
_CLASSIFIERS = ("head.", "head_dist.")
# The convolution that meets the image: of a plain model, of a ResNet stem alone or in front of its stages, of MobileCLIP's.
_FIRST = (
    _KERNEL,
    "patch_embed.backbone.conv.weight",
    "patch_embed.backbone.stem.conv.weight",
    "patch_embed.backbone.0.conv.weight",
)


@dataclass(frozen=True)
class Destination:
    """What the loader needs to know of a model: every tensor's shape, its patch and grid size.

    ``patch_size`` is the kernel's; ``stride`` says how many pixels one pixel of it stands for, above 1 behind a
    convolutional stem. Without a kernel of its own (MobileCLIP) the stem is the patch embedding: patch size 1.
    """

    shapes: Mapping[str, tuple[int, ...]]
    patch_size: tuple[int, int]
    grid_size: tuple[int, int]
    stride: tuple[int, int]
    in_chans: int

    @classmethod
    def of(cls, model: nn.Module) -> Destination:
        """Read a timm VisionTransformer, or anything with its attributes. Raises :class:`LoadError`."""
        shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        embed = getattr(model, "patch_embed", None)
        grid, image = getattr(embed, "grid_size", None), getattr(embed, "img_size", None)
        first = next((k for k in reversed(_FIRST) if len(shapes.get(k, ())) == 4), None)
        if grid is None or first is None or (_KERNEL in shapes and len(shapes[_KERNEL]) != 4):
            raise LoadError(
                f"{type(model).__name__} is no Vision Transformer: it needs patch_embed.grid_size and {_KERNEL}"
            )
        patch = shapes[_KERNEL][-2:] if _KERNEL in shapes else (1, 1)
        stride = tuple(i // (g * p) for i, g, p in zip(image, grid, patch)) if image else (1, 1)
        return cls(shapes, patch, tuple(grid), stride, shapes[first][1])


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
    form = detect(state_dict)
    how = resampling or form.resampling
    facts = Facts(in_chans=destination.in_chans, patch_size=destination.patch_size)
    state = form.decode(state_dict, facts)
    representation = [k for k in state_dict if k.startswith("pre_logits")]
    if representation and "head.weight" in state and "head.weight" in destination.shapes and not keep_classifier:
        raise LoadError(
            f"the classifier reads the output of {some(representation)}, a layer the model does not have: load into a model "
            "with num_classes=0, or pass keep_classifier=True"
        )
    if keep_classifier:
        own = {k: v for k, v in model.state_dict().items() if k.startswith(_CLASSIFIERS)}
        state = {k: v for k, v in state.items() if not k.startswith(_CLASSIFIERS)} | own
    state = _for_model(state, destination)
    source_patch = (1, 1)
    if _KERNEL in state:
        source_patch = tuple(state[_KERNEL].shape[-2:])
        state[_KERNEL] = resample_patch_kernel(state[_KERNEL], destination.patch_size, how)
    if _GRID in state and form.windowed:
        side = isqrt(state[_GRID].shape[1])
        if side * side != state[_GRID].shape[1]:
            raise LoadError(f"the {form.name} format has a square of position tokens, not {state[_GRID].shape[1]}")
        state[_GRID] = resample_position_window(state[_GRID], (side, side), destination.grid_size, how)
    elif _GRID in state:
        rows = destination.shapes[_GRID][1] - destination.grid_size[0] * destination.grid_size[1]
        pixels = (source_patch[0] * destination.stride[0], source_patch[1] * destination.stride[1])
        old_grid = _source_grid(state[_GRID].shape[1] - rows, pixels, destination.grid_size, input_size, model)
        state[_GRID] = resample_position_grid(state[_GRID], old_grid, destination.grid_size, rows, how)
    return _complete(_with_channels(state, destination), destination)


def _with_channels(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """The first convolution adapted to the model's input channels."""
    first = next((k for k in reversed(_FIRST) if k in state), None)
    if first is None or state[first].ndim != 4:
        return state
    return state | {first: adapt_input_channels(state[first], destination.shapes[first][1])}


def _for_model(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """Drop the classifier a model without one has no use for; refuse other names, and what cannot be resampled."""
    shapes = destination.shapes
    for head in _CLASSIFIERS:
        if f"{head}weight" not in shapes:
            state = {k: v for k, v in state.items() if not k.startswith(head)}
    names = (("missing", [k for k in shapes if k not in state]), ("unexpected", [k for k in state if k not in shapes]))
    if any(found for _, found in names):
        raise LoadError("checkpoint does not fit the model: " + "; ".join(f"{t}: {some(n)}" for t, n in names if n))
    for key, ndim in ((_KERNEL, 4), (_GRID, 3)):
        if key in state and (state[key].ndim != ndim or (key == _GRID and len(state[key]) != 1)):
            raise LoadError(f"{key} has shape {tuple(state[key].shape)}, which is none of a Vision Transformer")
    return state


def _source_grid(
    tokens: int,
    pixels: tuple[int, int],
    model_grid: tuple[int, int],
    input_size: tuple[int, int] | None,
    model: nn.Module,
) -> tuple[int, int]:
    """The grid of ``tokens`` position tokens of ``pixels`` each, by the three rules of :func:`load_state_dict`."""
    if tokens < 1:
        raise LoadError("pos_embed has fewer rows than the model has prefix tokens: the model has other prefix tokens")
    declared = input_size or (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    if declared:
        grid = (declared[-2] // pixels[0], declared[-1] // pixels[1])
        if grid[0] * grid[1] == tokens:
            return grid
    if input_size is not None:
        raise LoadError(
            f"input_size {tuple(input_size)} is not the checkpoint's: at {pixels} pixels a token it gives "
            f"{grid[0]}x{grid[1]} position tokens, the checkpoint has {tokens}"
        )
    if tokens == model_grid[0] * model_grid[1]:
        return model_grid
    if isqrt(tokens) ** 2 == tokens:
        return isqrt(tokens), isqrt(tokens)
    raise LoadError(
        f"{tokens} position tokens form no square grid and the declared input size does not explain them: "
        "pass input_size=(height, width) of the checkpoint"
    )


def _complete(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """Refuse what a strict load would refuse."""
    shapes = destination.shapes
    wrong = [f"{k} is {tuple(v.shape)}, the model has {shapes[k]}" for k, v in state.items() if v.shape != shapes[k]]
    if wrong:
        raise LoadError(f"checkpoint does not fit the model: {some(wrong)}")
    return state
