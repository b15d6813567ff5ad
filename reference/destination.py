"""The properties of a model that the loader needs, read from a model of any timm release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .errors import LoadError
from .formats import Facts
from .formats.naflex_native import NAFLEX_NATIVE

KERNEL = "patch_embed.proj.weight"
_TABLE = "relative_position_bias_table"
# Names of the convolution that reads the image: in a plain model, in a ResNet stem without and with stages, in MobileCLIP.
FIRST = (
    KERNEL,
    "patch_embed.backbone.conv.weight",
    "patch_embed.backbone.stem.conv.weight",
    "patch_embed.backbone.0.conv.weight",
)


@dataclass(frozen=True)
class Destination:
    """The properties of a model that the loader needs: shapes of all tensors, and sizes of patch, grid and windows.

    ``shapes`` have the tensor names of a VisionTransformer; ``naflex`` says whether the model has a NaFlexViT's names.
    ``facts`` are the model's properties that decoding a checkpoint needs. ``patch_size`` is the kernel's, in pixels of the
    kernel; ``stride`` is the number of image pixels for each of them, above 1 behind a convolutional stem. Without a kernel of
    its own (MobileCLIP) the stem is the patch embedding, and the patch size is 1. ``windows`` are those of the relative position
    bias tables, by the table's name. ``floating`` are the names of floating-point tensors.
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
        tensors = model.state_dict(keep_vars=True)
        if NAFLEX_NATIVE.evidence(tensors):
            embeds: Any = model.embeds
            patch_size: tuple[int, int] = tuple(embeds.patch_size)
            last = getattr(embeds, "channels_last", True)
            facts = Facts(embeds.in_chans, patch_size, channels_last=last, fc_norm="fc_norm.weight" in tensors)
            classic = NAFLEX_NATIVE.decode({k: v.to("meta") for k, v in tensors.items()}, facts)
            shapes = {k: tuple(v.shape) for k, v in classic.items()}
            grid_size: tuple[int, int] = tuple(embeds.pos_embed_grid_size or (1, 1))
            return cls(shapes, patch_size, grid_size, (1, 1), {}, _floating(classic), facts, naflex=True)
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
        patch = (shapes[KERNEL][-2], shapes[KERNEL][-1]) if KERNEL in shapes else (1, 1)
        stride = (image[0] // (grid[0] * patch[0]), image[1] // (grid[1] * patch[1])) if image else (1, 1)
        owners: dict[str, Any] = {
            k: model.get_submodule(k.removesuffix(_TABLE).rstrip(".")) for k in shapes if k.endswith(_TABLE)
        }
        windows = {k: tuple(owner.window_size) for k, owner in owners.items()}
        facts = Facts(shapes[first][1], patch, fc_norm="fc_norm.weight" in shapes)
        return cls(shapes, patch, tuple(grid), stride, windows, _floating(tensors), facts)


def _floating(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    return frozenset(k for k, v in tensors.items() if v.is_floating_point())
