"""What the loader needs to know of a model, whichever timm built it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .errors import LoadError
from .formats import Facts
from .formats.naflex_native import NAFLEX_NATIVE

KERNEL = "patch_embed.proj.weight"
_TABLE = "relative_position_bias_table"
# The convolution that meets the image: of a plain model, of a ResNet stem alone or in front of its stages, of MobileCLIP's.
FIRST = (
    KERNEL,
    "patch_embed.backbone.conv.weight",
    "patch_embed.backbone.stem.conv.weight",
    "patch_embed.backbone.0.conv.weight",
)


@dataclass(frozen=True)
class Destination:
    """What the loader needs to know of a model: every tensor's shape, its patch, grid and window sizes.

    ``shapes`` are by the names a VisionTransformer gives its tensors; ``naflex`` says whether the model has its own.
    ``facts`` are what decoding a checkpoint for the model takes from it.
    ``patch_size`` is the kernel's; ``stride`` says how many pixels one pixel of it stands for, above 1 behind a
    convolutional stem. Without a kernel of its own (MobileCLIP) the stem is the patch embedding: patch size 1. ``windows``
    are those of its relative position bias tables, by the table's name; ``floating`` are the tensors that are no integers.
    """

    shapes: Mapping[str, tuple[int, ...]]
    patch_size: tuple[int, int]
    grid_size: tuple[int, int]
    stride: tuple[int, int]
    windows: Mapping[str, tuple[int, int]]
    floating: frozenset[str]
    facts: Facts
    naflex: bool = False

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
            return cls(shapes, facts.patch_size, grid, (1, 1), {}, _floating(classic), facts, naflex=True)
        shapes = {k: tuple(v.shape) for k, v in tensors.items()}
        embed = getattr(model, "patch_embed", None)
        grid, image = getattr(embed, "grid_size", None), getattr(embed, "img_size", None)
        first = next((k for k in reversed(FIRST) if len(shapes.get(k, ())) == 4), None)
        if grid is None or first is None or (KERNEL in shapes and len(shapes[KERNEL]) != 4):
            raise LoadError(
                f"{type(model).__name__} is no Vision Transformer: it needs patch_embed.grid_size and {KERNEL}"
            )
        if not all(grid):
            raise LoadError(
                f"{type(model).__name__} has a grid of {grid[0]}x{grid[1]}: its image is smaller than a patch"
            )
        patch = shapes[KERNEL][-2:] if KERNEL in shapes else (1, 1)
        stride = tuple(i // (g * p) for i, g, p in zip(image, grid, patch)) if image else (1, 1)
        owners = {k: model.get_submodule(k.removesuffix(_TABLE).rstrip(".")) for k in shapes if k.endswith(_TABLE)}
        windows = {k: tuple(owner.window_size) for k, owner in owners.items()}
        return cls(shapes, patch, tuple(grid), stride, windows, _floating(tensors), Facts(shapes[first][1], patch))


def _floating(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    return frozenset(k for k, v in tensors.items() if v.is_floating_point())
