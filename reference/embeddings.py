"""Resampling of the tensors that depend on the image size: the patch kernel and the absolute position grid."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from .resize import BICUBIC_ANTIALIAS, Resampling, axis_matrix, axis_pinv, resize_rows, working

# Entries of a product that are computed at a time: 1 or 2 MiB fit into a cache, and malloc reuses the memory.
_BLOCK = 1 << 18


@torch.no_grad()
def resample_patch_kernel(weight: Tensor, patch_size: tuple[int, int], how: Resampling = BICUBIC_ANTIALIAS) -> Tensor:
    """PI-resize of patch-embedding kernels ``(..., h, w)`` to ``(..., *patch_size)``.

    With ``B`` the matrix that resizes an ``h x w`` patch to ``patch_size``, the new kernel is ``w @ pinv(B)``: the
    minimum-norm solution of ``<B x, w_new> = <x, w>`` for every patch ``x``, exact when both axes grow (FlexiViT, Beyer et
    al. 2022, arXiv:2212.08013, section 3.4; ``google-research/big_vision`` ``big_vision/models/proj/flexi/vit.py``).
    The matrix is float64, the products have the :func:`.resize.working` dtype, and the result has the kernel's dtype and
    device. Returns the same tensor if the size does not change.
    """
    old, how, dtype = tuple(weight.shape[-2:]), how.of_kernels, working(weight)
    if old == tuple(patch_size):
        return weight
    rows, cols = (axis_pinv(o, n, how).T.to(weight.device, dtype) for o, n in zip(old, patch_size))
    kernels, block = weight.reshape(-1, *old), max(1, _BLOCK // max(prod(old), prod(patch_size)))
    out = kernels.new_empty(len(kernels), prod(patch_size))
    for some, into in zip(kernels.split(block), out.split(block)):
        # Each product puts its new axis first, which is fastest in BLAS: (n, h, w), (new_w, n, h), (new_h, new_w, n).
        product = cols @ some.to(dtype).reshape(-1, old[1]).T
        product = rows @ product.reshape(-1, old[0]).T
        into.copy_(product.to(weight.dtype).reshape(-1, len(some)).T)
    return out.reshape(*weight.shape[:-2], *patch_size)


@torch.no_grad()
def resample_position_grid(
    pos_embed: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix_tokens: int,
    how: Resampling = BICUBIC_ANTIALIAS,
) -> Tensor:
    """Resample the grid rows of ``pos_embed`` ``(1, num_prefix_tokens + old_h * old_w, embed_dim)``.

    The prefix rows come first and are kept bit for bit. The other rows are the cells of ``old_grid``, row by row, and are
    resized to ``new_grid``. The matrices are float64, the products have the :func:`.resize.working` dtype, and the result has
    the input's dtype. Returns the same tensor if the grid does not change.
    """
    tokens = pos_embed.shape[1] - num_prefix_tokens
    if tokens != old_grid[0] * old_grid[1]:
        raise ValueError(f"{tokens} position tokens do not fill a {old_grid[0]}x{old_grid[1]} grid")
    if tuple(old_grid) == tuple(new_grid):
        return pos_embed
    rows, cols = (axis_matrix(o, n, how).to(pos_embed.device) for o, n in zip(old_grid, new_grid))
    out = pos_embed.new_empty(1, num_prefix_tokens + prod(new_grid), pos_embed.shape[2], dtype=working(pos_embed))
    out[:, :num_prefix_tokens] = pos_embed[:, :num_prefix_tokens]
    resize_rows(pos_embed[0, num_prefix_tokens:], rows, cols, out[0, num_prefix_tokens:])
    return out.to(pos_embed.dtype)


@torch.no_grad()
def resample_position_window(
    pos_embed: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], how: Resampling
) -> Tensor:
    """Positions of a RADIO model: the square grid ``pos_embed`` ``(1, side * side, embed_dim)``, resized and cropped.

    The grid is resized to a square with the new grid's longer side. Its top left part of size ``new_grid`` is kept. Returns the
    same tensor if nothing changes. Source: ``NVlabs/RADIO`` ``radio/vit_patch_generator.py: _get_pos_embeddings``.
    """
    side = max(new_grid)
    square = resample_position_grid(pos_embed, old_grid, (side, side), 0, how)
    if tuple(new_grid) == (side, side):
        return square
    window = square.reshape(1, side, side, -1)[:, : new_grid[0], : new_grid[1]]
    return window.reshape(1, new_grid[0] * new_grid[1], -1)


@torch.no_grad()
def adapt_input_channels(weight: Tensor, in_chans: int) -> Tensor:
    """A kernel ``(embed_dim, channels, h, w)`` adapted to images of ``in_chans`` channels.

    A single channel is the sum over channels, so a grey image gives the same result as before in colour. Otherwise channels
    repeat in turn, scaled by ``channels / in_chans``, so a kernel of equal channels gives the same result. The sums are float64,
    the result has the kernel's dtype. Returns the same tensor if the number does not change. Source:
    ``huggingface/pytorch-image-models`` ``timm/models/_manipulate.py: adapt_input_conv``.
    """
    channels = weight.shape[1]
    if channels == in_chans:
        return weight
    exact = weight.to(torch.float64)
    if in_chans == 1:
        return exact.sum(dim=1, keepdim=True).to(weight.dtype)
    turn = [n % channels for n in range(in_chans)]
    return (exact[:, turn] * (channels / in_chans)).to(weight.dtype)
