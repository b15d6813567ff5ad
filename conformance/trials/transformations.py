"""Transformations that make a wrong tensor out of the right one, each with what it is in words.

They are what loaders get wrong: the order of the parts of a fused tensor, an axis, the way of resampling, rows of a position
embedding, a block, a dtype. :mod:`timm_conformance.trials.diagnosis` tries them on the expected tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..families.base import KERNEL
from ..reference.embeddings import resample_position_grid
from ..reference.relative import transpose_bias_table
from ..reference.resize import Resampling, axis_matrix, axis_pinv
from .expectation import GRID, Expectation

Made = tuple[str, Tensor]
_HOWS = {
    "bicubic with antialias": Resampling(),
    "bicubic without antialias": Resampling(antialias=False),
    "bicubic with align_corners": Resampling(antialias=False, align_corners=True),
    "bilinear with antialias": Resampling("bilinear"),
    "bilinear without antialias": Resampling("bilinear", antialias=False),
    "bilinear with align_corners": Resampling("bilinear", antialias=False, align_corners=True),
}
_QKV = ("q", "k", "v")
_BLOCK = re.compile(r"\b\d+\b")


def constant(about: Expectation, name: str, want: Tensor) -> Iterator[Made]:
    """A tensor that nothing of the checkpoint was written into."""
    yield "zeros", torch.zeros_like(want)
    yield "ones, as a norm's weight is initialised", torch.ones_like(want)
    yield "NaN", torch.full_like(want, float("nan")) if want.is_floating_point() else torch.zeros_like(want)


def fused_parts(about: Expectation, name: str, want: Tensor) -> Iterator[Made]:
    """q, k and v of a fused projection in another order or partly left out; gate and value of a gated MLP exchanged."""
    if re.search(r"\bqkv\b", name) and want.shape[0] % 3 == 0:
        parts = want.chunk(3)
        for order in permutations(range(3)):
            moved = [i for i in range(3) if order[i] != i]
            if len(moved) == 2:
                yield f"{_QKV[moved[0]]} and {_QKV[moved[1]]} exchanged", torch.cat([parts[i] for i in order])
            elif moved:
                yield (
                    f"the parts in the order {', '.join(_QKV[i] for i in order)}",
                    torch.cat([parts[i] for i in order]),
                )
        for n in range(3):
            yield f"zeros in place of {_QKV[n]}", torch.cat([p * (i != n) for i, p in enumerate(parts)])
        # Rows of q, k and v in turn for each head, as some upstream layouts have them.
        heads = about.case.arch.get("num_heads")
        if heads and want.shape[0] % (3 * heads) == 0:
            rows = want.reshape(3, heads, -1, *want.shape[1:])
            yield "q, k and v of each head together", rows.transpose(0, 1).reshape(want.shape)
    if re.search(r"\bmlp\.(fc1|w12|fc1_[gx])", name) and want.shape[0] % 2 == 0:
        first, second = want.chunk(2)
        yield "gate and value exchanged", torch.cat([second, first])


def axes(about: Expectation, name: str, want: Tensor) -> Iterator[Made]:
    """Axes exchanged or reversed."""
    geometry = about.case.destination
    if name == GRID and about.prefix_rows + geometry.tokens == want.shape[1]:
        rows, (high, wide) = about.prefix_rows, geometry.grid_size
        image = want[:, rows:].reshape(1, high, wide, -1)
        swapped = image.transpose(1, 2).reshape(1, geometry.tokens, -1)
        yield "height and width exchanged", torch.cat([want[:, :rows], swapped], dim=1)
        read = want[:, rows:].reshape(1, wide, high, -1).transpose(1, 2).reshape(1, geometry.tokens, -1)
        yield "height and width exchanged", torch.cat([want[:, :rows], read], dim=1)
    if name in about.tables and len(about.tables[name][1]) == 2:
        yield "height and width exchanged", transpose_bias_table(want, about.tables[name][1])
    if want.ndim >= 2:
        last = "height and width exchanged" if want.ndim == 4 else "transposed"
        yield last, want.transpose(-1, -2)
        yield f"transposed, and read in the shape {tuple(want.shape)}", want.transpose(-1, -2).reshape(want.shape)
        yield "the first two dimensions exchanged", want.transpose(0, 1)
    if want.ndim == 4 and want.shape[1] > 1:
        yield "the channels reversed (BGR in place of RGB)", want.flip(1)
    if want.ndim >= 1:
        yield "the last dimension reversed", want.flip(-1)
    if want.ndim >= 2:
        yield "the first dimension reversed", want.flip(0)


def resampled_otherwise(about: Expectation, name: str, want: Tensor) -> Iterator[Made]:
    """A tensor that depends on the geometry, not resampled, or in another way."""
    if name not in about.geometric or not about.changed(name):
        return
    truth, source, destination = about.truth[name], about.case.source, about.case.destination
    yield "the checkpoint's tensor, not resampled", truth
    exact = truth.to(torch.float64)
    if name == KERNEL:
        yield from _kernels(exact, source.patch_size, destination.patch_size)
    elif name == GRID and not about.format.windowed:
        rows = about.prefix_rows
        for words, how in _HOWS.items():
            grid = resample_position_grid(exact, source.grid_size, destination.grid_size, rows, how)
            yield f"the checkpoint's tensor, resampled {words}", grid
        image = exact[:, rows:].transpose(1, 2).unflatten(-1, source.grid_size)
        for mode in ("nearest", "nearest-exact"):
            near = F.interpolate(image, size=destination.grid_size, mode=mode).flatten(2).transpose(1, 2)
            yield "the checkpoint's tensor, resampled by nearest neighbour", torch.cat([exact[:, :rows], near], dim=1)
        sizes = source.grid_size, destination.grid_size
        for old, new in ((sizes[0][::-1], sizes[1]), (sizes[0], sizes[1][::-1]), (sizes[0][::-1], sizes[1][::-1])):
            grid = resample_position_grid(exact, old, new, rows, about.resampling)
            yield "the checkpoint's tensor, resampled with height and width exchanged", grid
        kept = min(exact.shape[1], want.shape[1])
        cut = torch.zeros(want.shape, dtype=torch.float64)
        cut[:, :kept] = exact[:, :kept]
        yield "the checkpoint's tensor, cut off or filled up with zeros, not resampled", cut
    elif name in about.tables and len(about.tables[name][1]) == 2:
        yield from _tables(exact, *about.tables[name])


def _kernels(exact: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Iterator[Made]:
    for words, how in _HOWS.items():
        image = [axis_matrix(o, n, how) for o, n in zip(old, new)]
        yield (
            f"the checkpoint's tensor, resampled like an image, {words}, not by the pseudo-inverse",
            image[0] @ exact @ image[1].T,
        )
        scaled = image[0] @ exact @ image[1].T * (old[0] * old[1] / (new[0] * new[1]))
        yield f"the checkpoint's tensor, resampled like an image, {words}, and scaled by the number of pixels", scaled
        if how.align_corners:
            continue
        inverse = [axis_pinv(o, n, how).T for o, n in zip(old, new)]
        yield f"the checkpoint's tensor, resampled by the pseudo-inverse of {words}", inverse[0] @ exact @ inverse[1].T
        back = [axis_pinv(n, o, how) for o, n in zip(old, new)]
        yield (
            f"the checkpoint's tensor, resampled by the pseudo-inverse of the transpose, {words}",
            back[0] @ exact @ back[1].T,
        )
    yield "the checkpoint's tensor, resampled by nearest neighbour", F.interpolate(exact, size=new, mode="nearest")


def _tables(exact: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[Made]:
    sizes, wanted = [2 * n - 1 for n in old], [2 * n - 1 for n in new]
    grid = exact[: sizes[0] * sizes[1]].T.reshape(1, -1, *sizes)
    extra = exact[sizes[0] * sizes[1] :]
    for mode in ("bicubic", "bilinear"):
        for corners in (False, True):
            resized = F.interpolate(grid, size=wanted, mode=mode, align_corners=corners)[0].flatten(1).T
            how = f"{mode} {'with' if corners else 'without'} align_corners"
            yield (
                f"the checkpoint's tensor, resampled like an image, {how}, not by geometric offsets",
                torch.cat([resized, extra]),
            )


def positions(about: Expectation, name: str, want: Tensor) -> Iterator[Made]:
    """Rows of the positions at the wrong place, or a class position added too seldom or too often."""
    rows = about.prefix_rows
    if name == GRID:
        if rows:
            yield "the prefix rows at the end", torch.cat([want[:, rows:], want[:, :rows]], dim=1)
            yield "zeros in the prefix rows", torch.cat([torch.zeros_like(want[:, :rows]), want[:, rows:]], dim=1)
        if rows > 1:
            yield "the prefix rows reversed", torch.cat([want[:, :rows].flip(1), want[:, rows:]], dim=1)
            yield "the prefix rows one further", torch.cat([want[:, :rows].roll(1, 1), want[:, rows:]], dim=1)
        for step in (1, -1):
            yield f"the rows {'later' if step > 0 else 'earlier'} by one", want.roll(step, 1)
    if name in ("cls_token", "dist_token", "reg_token", GRID):
        for source, tensor in about.upstream.items():
            dim = want.shape[-1]
            if re.search(r"pos|class|cls", source) and tensor.ndim and tensor.shape[-1] == dim and tensor.numel():
                row = tensor.reshape(-1, dim)[0].to(torch.float64)
                for many in sorted({1, about.prefix_tokens, want.shape[1]} if name != GRID else {1}):
                    part = torch.zeros_like(want, dtype=torch.float64)
                    part[:, :many] = row
                    yield f"the first row of {source} not added", want.to(torch.float64) - part
                    yield f"the first row of {source} added once more", want.to(torch.float64) + part


def values(about: Expectation, name: str, want: Tensor) -> Iterator[Made]:
    """Numbers changed one by one."""
    if not want.is_floating_point():
        return
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        yield f"cast to {str(dtype).removeprefix('torch.')} and back", want.to(dtype).to(torch.float64)
    exact = want.to(torch.float64)
    yield "the sign changed", -exact
    for factor, words in ((2.0, "twice"), (0.5, "half of"), (3.0, "three times"), (1 / 3, "a third of")):
        yield f"{words} what it should be", exact * factor
    if (channels := about.case.in_chans) and want.ndim == 4:
        yield "the mean over channels in place of the sum", exact / max(1, about.truth[name].shape[1])
        yield f"not scaled for {channels} channels", exact * channels / about.truth[name].shape[1]


def another(about: Expectation, name: str, want: Tensor) -> Iterator[Made]:
    """Another tensor of the model: of a neighbouring block first."""
    if number := _BLOCK.search(name):
        for step, words in ((1, "the next block"), (-1, "the block before")):
            neighbour = f"{name[: number.start()]}{int(number[0]) + step}{name[number.end() :]}"
            if neighbour in about.expected:
                yield f"the tensor of {words}", about.expected[neighbour]
    block = name[: number.end() + 1] if number else ""
    for other in sorted(about.expected, key=lambda k: not k.startswith(block)):
        if other != name and about.expected[other].shape == want.shape:
            yield f"the tensor {other}", about.expected[other]


# In the order in which they are tried, the plainest explanation first, each with what its words begin with.
TRANSFORMATIONS: tuple[tuple[str, Callable[[Expectation, str, Tensor], Iterator[Made]]], ...] = (
    ("", constant),
    ("", resampled_otherwise),
    ("expected with ", fused_parts),
    ("expected, ", axes),
    ("expected with ", positions),
    ("", another),
    ("expected, ", values),
)
