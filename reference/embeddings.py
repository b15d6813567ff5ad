"""What depends on the input in a Vision Transformer checkpoint: the patch kernel and the absolute position grid."""

from __future__ import annotations

import torch
from torch import Tensor

from .resize import BICUBIC_ANTIALIAS, Resampling, axis_pinv, resize


@torch.no_grad()
def resample_patch_kernel(weight: Tensor, patch_size: tuple[int, int], how: Resampling = BICUBIC_ANTIALIAS) -> Tensor:
    """PI-resize of patch-embedding kernels ``(..., h, w)`` to ``(..., *patch_size)``.

    With ``B`` the matrix that resizes an ``h x w`` patch to ``patch_size``, the new kernel is ``w @ pinv(B)``: the
    minimum-norm solution of ``<B x, w_new> = <x, w>`` for every patch ``x``, exact when both axes grow (FlexiViT, Beyer et
    al. 2022, arXiv:2212.08013, section 3.4; ``google-research/big_vision`` ``big_vision/models/proj/flexi/vit.py``).
    Computed in float64, returned in the kernel's dtype on its device; the same tensor when the size does not change.
    """
    old, how = tuple(weight.shape[-2:]), how.of_kernels
    if old == tuple(patch_size):
        return weight
    rows = axis_pinv(old[0], patch_size[0], how).to(weight.device)
    cols = axis_pinv(old[1], patch_size[1], how).to(weight.device)
    return (rows.T @ weight.to(torch.float64) @ cols).to(weight.dtype)


@torch.no_grad()
def resample_position_grid(
    pos_embed: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix_tokens: int,
    how: Resampling = BICUBIC_ANTIALIAS,
) -> Tensor:
    """Resample the grid rows of ``pos_embed`` ``(1, num_prefix_tokens + old_h * old_w, embed_dim)``.

    The prefix rows come first and are kept bit for bit; the rest is read row-major as ``old_grid`` and resized to
    ``new_grid``. Computed in float64, returned in the input's dtype; the same tensor when the grid does not change.
    """
    tokens = pos_embed.shape[1] - num_prefix_tokens
    if tokens != old_grid[0] * old_grid[1]:
        raise ValueError(f"{tokens} position tokens do not fill a {old_grid[0]}x{old_grid[1]} grid")
    if tuple(old_grid) == tuple(new_grid):
        return pos_embed
    prefix, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    image = grid.reshape(*old_grid, -1).permute(2, 0, 1)
    image = resize(image, tuple(new_grid), how).to(pos_embed.dtype)
    return torch.cat([prefix, image.permute(1, 2, 0).reshape(1, new_grid[0] * new_grid[1], -1)], dim=1)


@torch.no_grad()
def resample_position_window(
    pos_embed: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], how: Resampling
) -> Tensor:
    """Positions of a RADIO model: the square grid ``pos_embed`` ``(1, side * side, embed_dim)``, resized and cropped.

    Resized to the square of the new grid's longer side, of which the top left ``new_grid`` is kept. The same tensor when
    nothing changes. Source: ``NVlabs/RADIO`` ``radio/vit_patch_generator.py: _get_pos_embeddings``.
    """
    side = max(new_grid)
    square = resample_position_grid(pos_embed, old_grid, (side, side), 0, how)
    if tuple(new_grid) == (side, side):
        return square
    window = square.reshape(1, side, side, -1)[:, : new_grid[0], : new_grid[1]]
    return window.reshape(1, new_grid[0] * new_grid[1], -1)


@torch.no_grad()
def adapt_input_channels(weight: Tensor, in_chans: int) -> Tensor:
    """A kernel ``(embed_dim, channels, h, w)`` for images of ``in_chans`` channels.

    One channel gets the sum over channels: a grey image gets the answer it got in colour. Otherwise channels repeat in turn,
    scaled by ``channels / in_chans``, so that a kernel of equal channels keeps its answer. Computed in float64, returned
    in the kernel's dtype; the same tensor when the number does not change. Source:
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
