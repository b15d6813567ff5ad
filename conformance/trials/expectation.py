"""The expectation of a case, for any loader: its checkpoint, the result of a correct load, and the error bounds.

:class:`timm_conformance.trials.trial.Trial` adds a loader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from ..cases.case import Case, Geometry, Size
from ..checkpoints import state_dicts
from ..checkpoints.formats import format_of
from ..families import Family
from ..families.base import KERNEL
from ..families.registration import check_arch, of_arch
from ..reference.embeddings import (
    adapt_input_channels,
    resample_patch_kernel,
    resample_position_grid,
    resample_position_window,
)
from ..reference.relative import resize_axis_table, resize_bias_table, transpose_bias_table
from . import bounds

GRID = "pos_embed"
CLASSIFIERS = ("head.", "head_dist.")


class Expectation:
    """One case with its tensors, the tensors of a correct load, and their bounds. Each is computed at most once."""

    def __init__(self, family: Family, case: Case) -> None:
        self.family = family
        self.case = case
        self._bounds: dict[str, Tensor] = {}
        check_arch(family, case.arch)
        self.prefix_tokens: int = of_arch(family, "num_prefix_tokens", case.arch)
        self.prefix_rows = 0 if case.arch.get("no_embed_class") else self.prefix_tokens
        self.format = format_of(family)
        self.resampling = family.resampling(case.arch) or self.format.resampling

    # -- the checkpoint ----------------------------------------------------------------------------------------------

    @cached_property
    def truth(self) -> dict[str, Tensor]:
        """The checkpoint in timm's layout at its own geometry."""
        return state_dicts.truth(self.family, self.case)

    @cached_property
    def upstream(self) -> dict[str, Tensor]:
        """The checkpoint in the upstream layout, without a wrapper."""
        return state_dicts.encode(self.family, self.case, self.truth)

    @cached_property
    def tables(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Old and new windows of the relative position tables, by name."""
        old, new = (self.family.tables(self.case.arch, g) for g in (self.case.source, self.case.destination))
        return {name: (old[name], new[name]) for name in old}

    @cached_property
    def geometric(self) -> tuple[str, ...]:
        """The tensors whose shape depends on the geometry: patch kernel, position grid, relative position tables."""
        return tuple(name for name in (KERNEL, GRID, *self.tables) if name in self.truth)

    def changed(self, name: str) -> bool:
        """Whether a geometry-dependent tensor has to be resampled for this case."""
        source, destination = self.case.source, self.case.destination
        if name == KERNEL:
            return source.patch_size != destination.patch_size
        if name == GRID:
            return source.grid_size != destination.grid_size
        return self.tables[name][0] != self.tables[name][1]

    def transposed(self, state: Mapping[str, Tensor], geometry: Geometry) -> dict[str, Tensor]:
        """``state`` of ``geometry``, with height and width exchanged in its geometry-dependent tensors."""
        out = dict(state)
        if KERNEL in state:
            out[KERNEL] = state[KERNEL].transpose(-1, -2).contiguous()
        if GRID in state:
            prefix, patches = state[GRID][:, : self.prefix_rows], state[GRID][:, self.prefix_rows :]
            image = patches.reshape(1, *geometry.grid_size, -1).transpose(1, 2)
            out[GRID] = torch.cat([prefix, image.reshape(patches.shape)], dim=1)
        for name, window in self.family.tables(self.case.arch, geometry).items():
            if name in state and len(window) == 2:
                out[name] = transpose_bias_table(state[name], window)
            elif name in state:
                out[name[:-1] + {"h": "w", "w": "h"}[name[-1]]] = state[name]
        return out

    def upstream_output(self, image: Tensor, nudged: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Output of the upstream model on ``image``, in float64. ``nudged`` changes each tensor before."""
        state = {k: nudged(v.to(torch.float64)) if v.is_floating_point() else v for k, v in self.upstream.items()}
        arch = {**self.case.arch, **self.family.forward_arch(self.case)}
        return self.format.forward(state, image, arch)

    # -- what a correct loader returns -----------------------------------------------------------------------------

    def resampled(self, name: str, tensor: Tensor) -> Tensor:
        """One geometry-dependent tensor, resampled from source to destination by the reference's matrices in float64."""
        return self._resampled(name, tensor.to(torch.float64)).to(tensor.dtype) if self.changed(name) else tensor

    def _resampled(self, name: str, tensor: Tensor) -> Tensor:
        source, destination = self.case.source, self.case.destination
        if name == KERNEL:
            return resample_patch_kernel(tensor, destination.patch_size, self.resampling)
        if name == GRID:
            return self._positions(tensor, source.grid_size, destination.grid_size)
        old, new = self.tables[name]
        return resize_bias_table(tensor, old, new) if len(old) == 2 else resize_axis_table(tensor, new[0])

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        """The result of a correct load in timm's layout: the truth, resampled by the reference's matrices."""
        return {**self.truth, **{name: self.resampled(name, self.truth[name]) for name in self.geometric}}

    def _positions(self, pos_embed: Tensor, old: Size, new: Size) -> Tensor:
        if self.format.windowed:
            return resample_position_window(pos_embed, old, new, self.resampling)
        return resample_position_grid(pos_embed, old, new, self.prefix_rows, self.resampling)

    @cached_property
    def created(self) -> dict[str, Tensor]:
        """:attr:`expected` for a caller who asks ``create_model`` for other channels or classes."""
        state, case = dict(self.expected), self.case
        if case.in_chans is not None:
            first = self.family.first_conv(case.arch)
            state[first] = adapt_input_channels(state[first], case.in_chans)
        if case.other_classes:
            state = {k: v for k, v in state.items() if not k.startswith(CLASSIFIERS)}
        return state

    def created_bound(self, name: str) -> Tensor:
        """Error bound for tensor ``name`` of :attr:`created` in a float32 model."""
        bound, asked = self.bound(name), self.case.in_chans
        if asked is None or name != self.family.first_conv(self.case.arch):
            double = self.case.dtype == "float64"
            return bound + bounds.rounding(self.created[name], torch.float32) if double else bound
        # An adapted channel is a sum or a multiple of the others, with one more rounding.
        want, channels = self.created[name], self.expected[name].to(torch.float64)
        total = bound.expand(channels.shape).sum(dim=1, keepdim=True)
        sums = channels.abs().sum(dim=1, keepdim=True)
        return total + bounds.rounded_once(want, want.dtype) + channels.shape[1] * bounds.rounding(sums, torch.float32)

    def bound(self, name: str, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Error bound, broadcastable to the tensor, for tensor ``name`` of a correct load of ``state`` (None: the truth).

        It is 0 for a tensor that is not resampled.
        """
        if name not in self.geometric or not self.changed(name):
            return torch.zeros((), dtype=torch.float64)
        if state is not None:
            return self.resampling_bound(name, state)
        if name not in self._bounds:
            self._bounds[name] = self.resampling_bound(name, self.truth)
        return self._bounds[name]

    def resampling_bound(self, name: str, state: Mapping[str, Tensor]) -> Tensor:
        """Error bound for a load of ``state`` that resamples tensor ``name``, even if the geometry stays the same."""
        source, destination = self.case.source, self.case.destination
        if name == KERNEL:
            return bounds.kernel(state[KERNEL], destination.patch_size, self.resampling)
        if name == GRID:
            rows, sizes = self.prefix_rows, (source.grid_size, destination.grid_size)
            exact = self._positions(state[GRID], *sizes)
            bound = bounds.grid(exact[:, rows:], state[GRID][:, rows:], *sizes, self.resampling)
            return torch.cat([torch.zeros(1, rows, bound.shape[2], dtype=bound.dtype), bound], dim=1)
        return bounds.table(self.resampled(name, state[name]), state[name], *self.tables[name])
