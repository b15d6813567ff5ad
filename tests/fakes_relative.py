"""The fakes of ``tests.fakes`` that get relative position tables, rotary buffers or attention projections wrong."""

from __future__ import annotations

from math import prod

import torch

from timm_conformance import reference
from timm_conformance.reference.relative import offset_matrix, offsets
from timm_conformance.reference.resize import BILINEAR, axis_matrix

from .fakes_resampling import loader_with


def _tables(checkpoint, model, resize, always=False):
    """The perfect loader that resizes tables by ``resize(grid, sizes)``, ``grid`` ``(rows, cols, heads)``; extra rows kept."""

    def part(table, old, new):
        if tuple(old) == tuple(new) and not always:
            return table
        count = prod(offsets(old))
        grid = resize(table[:count].double().unflatten(0, offsets(old)), offsets(new))
        return torch.cat([grid.flatten(0, 1).to(table.dtype), table[count:]])

    return loader_with(checkpoint, model, resize_bias_table=part)


def _by_axes(rows, cols):
    """Resize with ``rows(old, new)`` and ``cols(old, new)`` as the matrices of the axes."""

    def resize(grid, new):
        return torch.einsum("ya,xb,abh->yxh", rows(grid.shape[0], new[0]), cols(grid.shape[1], new[1]), grid)

    return resize


def _evenly(old, new):
    return axis_matrix(old, new, BILINEAR)


def _nearest(old, new):
    matrix = offset_matrix(old, new)
    return torch.nn.functional.one_hot(matrix.argmax(dim=1), old).double()


def resizes_tables_that_fit(checkpoint, model):
    """Resizes a table to the window it is of."""
    return _tables(checkpoint, model, _by_axes(offset_matrix, offset_matrix), always=True)


def tables_like_images(checkpoint, model):
    """Stretches tables evenly."""
    return _tables(checkpoint, model, _by_axes(_evenly, _evenly))


def tables_by_column_rule(checkpoint, model):
    """Stretches the columns of tables evenly, and not the rows."""
    return _tables(checkpoint, model, _by_axes(offset_matrix, _evenly))


def asks_about_the_width_of_windows(checkpoint, model):
    """Resizes a table where the width of its window is another, and not where only its height is."""
    real = reference.relative.resize_bias_table
    part = lambda table, old, new: table if old[1] == new[1] else real(table, old, new)  # noqa: E731
    return loader_with(checkpoint, model, resize_bias_table=part)


def nearest_offsets(checkpoint, model):
    """Takes the nearest offset of a table, and interpolates nothing."""
    return _tables(checkpoint, model, _by_axes(_nearest, _nearest))


def flattens_resized_tables(checkpoint, model):
    """Returns a resized table with one axis in place of two."""
    real = reference.relative.resize_bias_table

    def part(table, old, new):
        resized = real(table, old, new)
        return resized if resized is table else resized.flatten()

    return loader_with(checkpoint, model, resize_bias_table=part)


def loses_the_class_rows(checkpoint, model):
    """Fills the class token's rows of a resized table with zeros."""
    real = reference.relative.resize_bias_table

    def part(table, old, new):
        resized = real(table, old, new)
        kept = prod(offsets(new)) if resized is not table else len(table)
        return torch.cat([resized[:kept], torch.zeros_like(resized[kept:])])

    return loader_with(checkpoint, model, resize_bias_table=part)


def keeps_rope_buffers(checkpoint, model):
    """Passes buffers of rotary embeddings on."""
    state = reference.load_state_dict(checkpoint, model)
    buffers = {k: v for k, v in reference.unwrap(checkpoint).items() if "rope." in k and k != "rope.freqs"}
    return state | buffers


def forgets_the_prefix_rows(checkpoint, model):
    """Does not add the positions of prefix tokens to the tokens of a NaFlexViT, which has none for them."""
    state, stored = reference.load_state_dict(checkpoint, model), reference.unwrap(checkpoint)
    own = {f"embeds.{name}": stored[name] for name in ("cls_token", "reg_token") if name in stored}
    return state | {name: token for name, token in own.items() if name in state}


def swaps_split_projections(checkpoint, model):
    """Exchanges k and v where they are stored apart."""
    state = reference.load_state_dict(checkpoint, model)
    turned = {"k_proj.weight": "v_proj.weight", "v_proj.weight": "k_proj.weight"}
    return state | {
        key.replace(one, other): value
        for key, value in state.items()
        for one, other in turned.items()
        if key.endswith(f"attn.{one}")
    }
