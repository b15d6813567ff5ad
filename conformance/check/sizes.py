"""Notes on sizes: what timm does with an image size that is no multiple of the patch and with other channels; other grids."""

from __future__ import annotations

from math import prod

from ..reference.destination import Destination
from ..reference.loader import Source
from .protocol import Request

# The longest grid that counts as another possible one: this many times as long as high, or as high as long.
_ELONGATED = 4


def notes(request: Request, model: Destination) -> list[str]:
    """What timm leaves of an ``--img-size`` that is no multiple of the patch; ``model`` is the one built at this size."""
    size = request.img_size
    if size is None:
        return []
    pixels = tuple(p * s for p, s in zip(model.patch_size, model.stride))
    left = [side % step for side, step in zip(size, pixels)]
    if not any(left):
        return []
    (rows, columns), (h, w) = left, model.grid_size
    cut = " and ".join(f"{n} {what}" for n, what in ((rows, "rows"), (columns, "columns")) if n)
    return [
        f"--img-size {size[0]}x{size[1]} is no multiple of the patch {pixels[0]}x{pixels[1]}: timm makes a grid of {h}x{w} and "
        f"leaves out the last {cut} of every image, unless dynamic_img_pad=True pads them"
    ]


def guessed_grid(request: Request, source: Source, model: Destination, axes: int) -> list[str]:
    """That the checkpoint's grid is a guess, and which others have as many tokens. Only where positions are resampled.

    ``axes`` is the number of axes of the checkpoint's positions. Four have the grid, and some formats' are always square.
    """
    grid, form = source.grid_size, source.format
    if grid is None or request.input_size is not None or grid == model.grid_size:
        return []
    if axes == 4 or form.windowed or form.square_grid:
        return []
    tokens = prod(grid)
    others = [
        (h, tokens // h)
        for h in range(1, tokens + 1)
        if tokens % h == 0 and (h, tokens // h) != grid and max(h, tokens // h) <= _ELONGATED * min(h, tokens // h)
    ]
    if not others:
        return []
    pixels = [p * s for p, s in zip(source.patch_size, model.stride)]
    listed = ", ".join(f"{h}x{w} (--input-size {h * pixels[0]}x{w * pixels[1]})" for h, w in others[:4])
    return [
        f"the grid {grid[0]}x{grid[1]} is guessed from {tokens} position tokens, no tensor tells it; also possible: {listed}"
    ]


def channels(old: int, new: int) -> list[str]:
    """What timm makes of the first convolution for other channels (``timm/models/_manipulate.py: adapt_input_conv``)."""
    if old == new:
        return []
    if new == 1:
        return [f"the model's one channel is the sum of the file's {old}"]
    if new < old:
        return [
            f"the model has the first {new} of the file's {old} channels, times {old}/{new}; the others are dropped"
        ]
    return [f"the model has the file's {old} channel{'s'[: old > 1]} in turn, times {old}/{new}"]
