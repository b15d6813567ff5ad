"""The fakes of ``tests.fakes`` that resample wrongly: the patch kernel, then the position grid."""

from __future__ import annotations

from functools import cache
from math import isqrt
from unittest import mock

import torch
import torch.nn.functional as F

from tests.resizing import resize
from timm_conformance import reference
from timm_conformance.reference.embeddings import resample_patch_kernel, resample_position_grid
from timm_conformance.reference.resize import BILINEAR, Resampling, axis_matrix, axis_pinv, resize_matrix

KERNEL, GRID = "patch_embed.proj.weight", "pos_embed"
_GRIDS: dict = {}


def loader_with(checkpoint, model, how=None, **parts):
    """The corrected loader with some functions of its module replaced."""
    with mock.patch.multiple("timm_conformance.reference.loader", **parts):
        return reference.load_state_dict(checkpoint, model, resampling=how)


def _kernel(checkpoint, model, resample):
    """The perfect loader that resamples kernels by ``resample(weight, size)``."""

    def part(weight, size, how):
        same = tuple(weight.shape[-2:]) == tuple(size)
        return weight if same else resample(weight.double(), tuple(size)).to(weight.dtype)

    return loader_with(checkpoint, model, resample_patch_kernel=part)


def _kernel_axes(checkpoint, model, axis):
    """The perfect loader with ``axis(old, new)`` in place of the pseudo-inverse of an axis."""
    return _kernel(checkpoint, model, lambda w, n: axis(w.shape[-2], n[0]).T @ w @ axis(w.shape[-1], n[1]))


def _grid(checkpoint, model, resample):
    """The perfect loader that resamples grids by ``resample(image, size)``, ``image`` ``(dim, height, width)``."""

    def part(pos, old, new, rows, how):
        if old == new:
            return pos
        image = pos[0, rows:].double().reshape(*old, -1).permute(2, 0, 1)
        tokens = resample(image, new).to(pos.dtype).permute(1, 2, 0).reshape(1, new[0] * new[1], -1)
        return torch.cat([pos[:, :rows], tokens], dim=1)

    return loader_with(checkpoint, model, resample_position_grid=part)


def _grid_axes(checkpoint, model, rows, cols=None):
    """The perfect loader with ``rows(old, new)`` and ``cols(old, new)`` as resize matrices of the grid's axes."""
    cols = cols or rows
    return _grid(checkpoint, model, lambda x, n: rows(x.shape[1], n[0]) @ x @ cols(x.shape[2], n[1]).T)


def _nearest(old, new):
    index = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new).long()
    return F.one_hot(index, old).double()


# -- the patch kernel --------------------------------------------------------------------------------------------------


def bilinear_kernel(checkpoint, model):
    """Inverts a bilinear resize."""
    return _kernel_axes(checkpoint, model, lambda o, n: axis_pinv(o, n, Resampling("bilinear")))


def antialias_off_kernel(checkpoint, model):
    """Inverts a resize without antialias."""
    return _kernel_axes(checkpoint, model, lambda o, n: axis_pinv(o, n, Resampling(antialias=False)))


def kernel_like_an_image(checkpoint, model):
    """Interpolates the kernel in place of inverting the resize."""
    return _kernel(checkpoint, model, resize)


def kernel_by_the_way_back(checkpoint, model):
    """Takes the resize from the new size to the old for the pseudo-inverse of the resize from old to new."""
    return _kernel_axes(checkpoint, model, lambda o, n: axis_matrix(n, o))


def kernel_of_larger_norm(checkpoint, model):
    """Adds to a grown kernel what no old patch can see."""

    def resample(weight, size):
        exact = resample_patch_kernel(weight, size)
        image = _nearest(weight.shape[-2], size[0]) @ weight @ _nearest(weight.shape[-1], size[1]).T
        rows, cols = (axis_matrix(o, n) @ axis_pinv(o, n) for o, n in zip(weight.shape[-2:], size))
        return exact + image - rows @ image @ cols.T

    return _kernel(checkpoint, model, resample)


def transposes_the_kernel(checkpoint, model):
    """Resamples the kernel with height and width exchanged."""
    return _kernel(checkpoint, model, lambda w, n: resample_patch_kernel(w.transpose(-1, -2), n))


@cache
def _noisy_pinv(old, new):
    return torch.linalg.pinv(resize_matrix(old, new).float(), rtol=1e-9).double()


def wrong_rank_cutoff(checkpoint, model):
    """Inverts rounding noise where the resize matrix has no full rank."""
    pinv = lambda w, n: w.flatten(-2) @ _noisy_pinv(tuple(w.shape[-2:]), n)  # noqa: E731
    return _kernel(checkpoint, model, lambda w, n: pinv(w, n).unflatten(-1, n))


def averages_a_shrunk_kernel(checkpoint, model):
    """Averages neighbouring pixels of a kernel that shrinks."""
    smaller = lambda w, n: n[0] <= w.shape[-2] and n[1] <= w.shape[-1]  # noqa: E731
    average = lambda w, n: F.adaptive_avg_pool2d(w, n) if smaller(w, n) else resample_patch_kernel(w, n)  # noqa: E731
    return _kernel(checkpoint, model, average)


def kernel_by_column_rule(checkpoint, model):
    """Inverts bicubic along rows and bilinear along columns."""
    cols = lambda o, n: axis_pinv(o, n, Resampling("bilinear"))  # noqa: E731
    return _kernel(checkpoint, model, lambda w, n: axis_pinv(w.shape[-2], n[0]).T @ w @ cols(w.shape[-1], n[1]))


def asks_about_the_width(checkpoint, model):
    """Resamples a kernel where its width is another, and hands out one of another height as it is."""
    state = reference.load_state_dict(checkpoint, model)
    stored = reference.unwrap(checkpoint).get("visual.conv1.weight", state[KERNEL])
    return state | {KERNEL: stored} if stored.shape[-1] == state[KERNEL].shape[-1] else state


def divides_by_the_norm(checkpoint, model):
    """Divides resampled kernels by their norm on the way, zero or not."""

    def resample(weight, size):
        norm = torch.linalg.vector_norm(weight, dim=(-2, -1), keepdim=True)
        return resample_patch_kernel(weight / norm, size) * norm

    return _kernel(checkpoint, model, resample)


# -- the position grid -------------------------------------------------------------------------------------------------


def bilinear_grid(checkpoint, model):
    """Resizes the grid bilinearly."""
    return _grid_axes(checkpoint, model, lambda o, n: axis_matrix(o, n, Resampling("bilinear")))


def antialias_off_grid(checkpoint, model):
    """Resizes the grid without antialias."""
    return _grid_axes(checkpoint, model, lambda o, n: axis_matrix(o, n, Resampling(antialias=False)))


def nearest_grid(checkpoint, model):
    """Repeats and skips rows and columns of the grid."""
    return _grid_axes(checkpoint, model, _nearest)


def zero_padded_grid(checkpoint, model):
    """Mixes zeros in at the edges of the grid."""
    return _grid_axes(checkpoint, model, lambda o, n: axis_matrix(o + 2, n)[:, 1:-1])


def scaled_grid(checkpoint, model):
    """Scales the grid by its new size."""
    return _grid(checkpoint, model, lambda x, n: resize(x, n) * (x.shape[1] * x.shape[2] / (n[0] * n[1])) ** 0.5)


def clipped_grid(checkpoint, model):
    """Clips what bicubic interpolation overshoots."""
    return _grid(checkpoint, model, lambda x, n: resize(x, n).clamp(x.min(), x.max()))


def cached_grid(checkpoint, model):
    """Returns the grid it computed first for these sizes."""
    return _grid(checkpoint, model, lambda x, n: _GRIDS.setdefault((x.shape, n), resize(x, n)))


def swaps_height_and_width(checkpoint, model):
    """Takes the grid's height for its width."""
    return _grid(checkpoint, model, lambda x, n: resize(x.reshape(len(x), x.shape[2], x.shape[1]), n))


def assumes_a_square_grid(checkpoint, model):
    """Reads a square number of tokens as a square, whatever is declared."""

    def grid(tokens, *rest, known=reference.loader._source_grid):
        side = isqrt(tokens)
        return (side, side) if side * side == tokens else known(tokens, *rest)

    return loader_with(checkpoint, model, _source_grid=grid)


def grid_by_column_rule(checkpoint, model):
    """Resizes rows bicubically and columns to the nearest."""
    return _grid_axes(checkpoint, model, axis_matrix, _nearest)


def refuses_high_grids(checkpoint, model):
    """Raises where a grid is to become higher than wide."""

    def resample(image, size):
        if size[0] > size[1]:
            raise RuntimeError(f"no grid of {size[0]} rows and {size[1]} columns")
        return resize(image, size)

    return _grid(checkpoint, model, resample)


def interpolates_the_class_row(checkpoint, model):
    """Interpolates all rows of the position embedding as one line, the class token's among them."""

    def part(pos, old, new, rows, how):
        length = rows + new[0] * new[1]
        return (axis_matrix(pos.shape[1], length) @ pos.double()).to(pos.dtype)

    return loader_with(checkpoint, model, resample_position_grid=part)


def resamples_the_class_token(checkpoint, model):
    """Mixes the grid's mean into the class row when the grid is resized."""

    def part(pos, old, new, rows, how):
        out = resample_position_grid(pos, old, new, rows, how)
        return out if out is pos else torch.cat([out[:, :rows] + out[:, rows:].mean(1, True), out[:, rows:]], dim=1)

    return loader_with(checkpoint, model, resample_position_grid=part)


# -- what is asked of the loader, and RADIO's window -------------------------------------------------------------------


def ignores_the_filter_asked_for(checkpoint, model):
    """Resamples as the format says, whatever the caller asks."""
    return reference.load_state_dict(checkpoint, model)


def aligns_no_corners(checkpoint, model):
    """Resizes RADIO's positions without aligned corners for every model."""
    return reference.load_state_dict(checkpoint, model, resampling=BILINEAR)


def _window(checkpoint, model, align_corners, resample):
    """The perfect loader that makes a window of RADIO's positions by ``resample(image, size, how)``."""

    def part(pos, old, new, how):
        image = pos[0].double().unflatten(0, old).permute(2, 0, 1)
        return resample(image, new, how).flatten(1).T[None].to(pos.dtype)

    how = Resampling("bilinear", False, align_corners)
    return loader_with(checkpoint, model, how, resample_position_window=part)


def window_from_the_centre(checkpoint, model, align_corners):
    """Keeps the middle of the square of positions, not its top left."""

    def centre(image, size, how):
        side = max(size)
        top, left = ((side - n) // 2 for n in size)
        return resize(image, (side, side), how)[:, top : top + size[0], left : left + size[1]]

    return _window(checkpoint, model, align_corners, centre)


def window_without_a_square(checkpoint, model, align_corners):
    """Resizes the square of positions to the grid itself, however long and narrow."""
    return _window(checkpoint, model, align_corners, resize)
