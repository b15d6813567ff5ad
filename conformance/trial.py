"""A trial: one case on one loader, with everything the invariants share computed at most once.

Loading is expensive and judging is cheap, so invariants ask the trial, and the trial remembers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, isqrt, prod
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from reference import FORMATS
from reference.embeddings import (
    adapt_input_channels,
    resample_patch_kernel,
    resample_position_grid,
    resample_position_window,
)
from reference.relative import offsets, resize_axis_table, resize_bias_table, transpose_bias_table

from . import bounds, checkpoints
from .cases import Case, Contents, Geometry, Size, regimes
from .families import Family
from .families.base import KERNEL
from .loaders import Loader, declared_size, default_size
from .problems import Problem, raised

GRID = "pos_embed"
CLASSIFIERS = ("head.", "head_dist.")


class Blocked(Exception):
    """An invariant cannot be judged on this case because another promise is broken already; that one reports it."""


@dataclass(frozen=True)
class Loaded:
    """What came of a conversion: a state dict, or what was raised.

    ``raw`` is the state dict as it was returned, ``state`` the same by VisionTransformer's names and in its layout;
    ``given`` is the checkpoint as it was afterwards.
    """

    raw: dict[str, Tensor] | None
    state: dict[str, Tensor] | None
    error: Exception | None
    given: Any

    @property
    def ok(self) -> bool:
        """Whether the loader returned a state dict."""
        return self.state is not None

    def problem(self, doing: str) -> Problem:
        """The raised exception as a problem."""
        return raised(self.error, doing)


def _passes_for_square(window: tuple[int, ...]) -> bool:
    """Whether a window is not square, and its relative position table has as many rows as a square one's: 1x5, 14x2."""
    rows = prod(offsets(window))
    return len(set(window)) > 1 and isqrt(rows) ** 2 == rows


class Trial:
    """One case on one loader."""

    def __init__(self, family: Family, case: Case, loader: Loader, checkpoint_device: str | None = None) -> None:
        self.family = family
        self.case = case
        self.loader = loader
        self.device = checkpoint_device or loader.device
        self.fractions: list[float] = []
        self._bounds: dict[str, Tensor] = {}
        self.prefix_tokens = family.num_prefix_tokens(case.arch)
        self.prefix_rows = 0 if case.arch.get("no_embed_class") else self.prefix_tokens
        self.format = FORMATS[family.format]
        self.resampling = family.resampling(case.arch) or self.format.resampling

    # -- the case ----------------------------------------------------------------------------------------------------

    @cached_property
    def regimes(self) -> frozenset[str]:
        """The regimes the case is in."""
        own = {self.device} - {"cpu"}
        if any(_passes_for_square(window) for pair in self.tables.values() for window in pair):
            own.add("table-passes-for-square")
        return regimes(self.case, self.prefix_tokens) | self.family.tags(self.case) | own

    @cached_property
    def undecidable(self) -> str | None:
        """Why no loader could know what to do with this case, or this release is not meant to."""
        case = self.case
        return (
            self.loader.lacking(self.family, case)
            or self.family.undecidable(case)
            or self.family.undecidable_grid(case, default_size(case))
        )

    @cached_property
    def truth(self) -> dict[str, Tensor]:
        """The checkpoint in timm's layout at its own geometry."""
        return checkpoints.truth(self.family, self.case)

    @cached_property
    def upstream(self) -> dict[str, Tensor]:
        """The checkpoint in the upstream layout, without a wrapper."""
        return checkpoints.encode(self.family, self.case, self.truth)

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

    def resampled(self, name: str, tensor: Tensor) -> Tensor:
        """One geometry-dependent tensor of the source, resampled to the destination by the reference's matrices."""
        source, destination = self.case.source, self.case.destination
        if name == KERNEL:
            return resample_patch_kernel(tensor, destination.patch_size, self.resampling)
        if name == GRID:
            return self._positions(tensor, source.grid_size, destination.grid_size)
        old, new = self.tables[name]
        return resize_bias_table(tensor, old, new) if len(old) == 2 else resize_axis_table(tensor, new[0])

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        """What a correct loader returns: the truth, resampled by the reference's matrices."""
        return {**self.truth, **{name: self.resampled(name, self.truth[name]) for name in self.geometric}}

    def loaded(self, other: Loaded, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Tensors of another load on the CPU; :class:`Blocked` where that load is broken otherwise."""
        if not other.ok:
            raise Blocked("the load itself raises")
        out = {}
        for name in names:
            if name not in other.state or other.state[name].numel() != self.expected[name].numel():
                raise Blocked(f"{name} is missing or of the wrong shape")
            out[name] = other.state[name].cpu()
        return out

    def _positions(self, pos_embed: Tensor, old: Size, new: Size) -> Tensor:
        if self.format.windowed:
            return resample_position_window(pos_embed, old, new, self.resampling)
        return resample_position_grid(pos_embed, old, new, self.prefix_rows, self.resampling)

    @cached_property
    def created(self) -> dict[str, Tensor]:
        """What :attr:`expected` becomes where a caller asks ``create_model`` for other channels or classes."""
        state, case = dict(self.expected), self.case
        if case.in_chans is not None:
            first = self.family.first_conv(case.arch)
            state[first] = adapt_input_channels(state[first], case.in_chans)
        if case.num_classes is not None:
            state = {k: v for k, v in state.items() if not k.startswith(CLASSIFIERS)}
        return state

    def created_bound(self, name: str) -> Tensor:
        """Error bound for tensor ``name`` of :attr:`created`."""
        bound, asked = self.bound(name), self.case.in_chans
        if asked is None or name != self.family.first_conv(self.case.arch):
            return bound
        # An adapted channel is a sum or a multiple of the others, and is rounded once more.
        want, channels = self.created[name], self.expected[name].to(torch.float64)
        total = bound.expand(channels.shape).sum(dim=1, keepdim=True)
        sums = channels.abs().sum(dim=1, keepdim=True)
        return total + bounds.rounding(want, want.dtype) + channels.shape[1] * bounds.rounding(sums, torch.float32)

    def bound(self, name: str, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """Error bound for tensor ``name`` of a correct load of ``state`` (the truth), broadcastable to it; 0 if it is kept."""
        if name not in self.geometric or not self.changed(name):
            return torch.zeros((), dtype=torch.float64)
        if state is not None:
            return self._bound(name, state)
        if name not in self._bounds:
            self._bounds[name] = self._bound(name, self.truth)
        return self._bounds[name]

    def _bound(self, name: str, state: Mapping[str, Tensor]) -> Tensor:
        source, destination = self.case.source, self.case.destination
        if name == KERNEL:
            return bounds.kernel(state[KERNEL], destination.patch_size, self.resampling)
        if name == GRID:
            rows, sizes = self.prefix_rows, (source.grid_size, destination.grid_size)
            exact = self._positions(state[GRID], *sizes)
            bound = bounds.grid(exact[:, rows:], state[GRID][:, rows:], *sizes, self.resampling)
            return torch.cat([torch.zeros(1, rows, bound.shape[2], dtype=bound.dtype), bound], dim=1)
        return bounds.table(self.resampled(name, state[name]), state[name], *self.tables[name])

    # -- loading -----------------------------------------------------------------------------------------------------

    def model(self, destination: Geometry | None = None, source: Geometry | None = None) -> nn.Module:
        """The destination model, declaring the input size of a checkpoint of ``source``."""
        destination = destination or self.case.destination
        declared = declared_size(self.family, self.case, source or self.case.source)
        return self.loader.model(self.family, self.case, destination, declared, self.device)

    def convert(
        self, checkpoint: Mapping[str, Any], *, destination: Geometry | None = None, source: Geometry | None = None
    ) -> Loaded:
        """Run the loader on ``checkpoint`` as it stands; what it raises is kept, not passed on."""
        model = self.model(destination, source)
        try:
            raw = self.loader.convert(self.family, self.case.arch, checkpoint, model)
            if not isinstance(raw, Mapping) or not all(isinstance(v, Tensor) for v in raw.values()):
                raise TypeError(f"the loader returned {type(raw).__name__}, not a dict of tensors")
        except Exception as error:
            return Loaded(None, None, error, checkpoint)
        case = replace(self.case, destination=destination or self.case.destination, in_chans=None)
        own = {k: v.clone() for k, v in raw.items()}  # the loader may have handed out the checkpoint's own tensors
        return Loaded(own, self.family.canonical(case, dict(own)), None, checkpoint)

    def load(
        self,
        state: Mapping[str, Tensor] | None = None,
        *,
        destination: Geometry | None = None,
        source: Geometry | None = None,
    ) -> Loaded:
        """Encode a timm-layout ``state`` of geometry ``source``, wrap it as the case says, and load it."""
        case = replace(self.case, source=source) if source else self.case
        upstream = self.upstream if state is None else checkpoints.encode(self.family, case, state)
        wrapped = checkpoints.wrap(upstream, self.case.wrapper)
        return self.convert(self.place(wrapped), destination=destination, source=source)

    def place(self, checkpoint: Any) -> Any:
        """A deep copy of ``checkpoint`` on the trial's device: whatever a loader does to it, the trial keeps its own."""
        return checkpoints.copy(checkpoint, self.device)

    @cached_property
    def base(self) -> Loaded:
        """The case itself, loaded."""
        return self.load()

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The loaded state dict; :class:`Blocked` when the loader raised (strict-load reports that)."""
        if self.base.state is None:
            raise Blocked("the load itself raises")
        return self.base.state

    @cached_property
    def raw(self) -> dict[str, Tensor]:
        """The loaded state dict in the model's own names and layout; :class:`Blocked` like :attr:`state`."""
        return self.base.raw if self.state is not None else {}

    def tensor(self, name: str) -> Tensor:
        """A loaded tensor on the CPU; :class:`Blocked` when it is missing or of another shape than the model's."""
        got, want = self.state.get(name), self.expected[name]
        if got is None or got.shape != want.shape:
            raise Blocked(f"{name} is missing or of the wrong shape")
        return got.cpu()

    @cached_property
    def native(self) -> Loaded:
        """The same checkpoint loaded at its own geometry."""
        return self.base if self.case.native else self.load(destination=self.case.source)

    @cached_property
    def constant(self) -> tuple[dict[str, Tensor], Loaded]:
        """Other random tensors in which every position of the grid holds the same vector, and their load."""
        state = checkpoints.truth(self.family, self.case, Contents("normal", self.case.contents.seed + 2))
        if GRID in state:
            state[GRID][:, self.prefix_rows :] = state[GRID][:, -1:]
        return state, self.load(state)

    def transposed(self, state: Mapping[str, Tensor], geometry: Geometry) -> dict[str, Tensor]:
        """Height and width exchanged in the geometry-dependent tensors of ``state``, which are of ``geometry``."""
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

    @cached_property
    def flipped(self) -> Loaded:
        """The case with height and width exchanged everywhere, loaded."""
        source, destination = self.case.source.transposed(), self.case.destination.transposed()
        return self.load(self.transposed(self.truth, self.case.source), destination=destination, source=source)

    @cached_property
    def variant(self) -> Loaded:
        """The checkpoint in another wrapper, with its keys shuffled and foreign keys beside them, loaded.

        One load judges three promises; only when it differs from the base are they told apart.
        """
        return self.load_variant(wrapper=self.other_wrapper, shuffle=True, foreign=True)

    @cached_property
    def other_wrapper(self) -> str | None:
        """A wrapper other than the case's own that the release knows: none at all if the format is ever found bare."""
        wrappers = [w for w in self.family.wrappers if w != self.case.wrapper]
        known = [w for w in wrappers if not self.loader.lacking(self.family, replace(self.case, wrapper=w))]
        if "bare" in known:
            return "bare"
        return known[self.case.contents.seed % len(known)] if known else None

    def load_variant(self, *, wrapper: str | None = None, shuffle: bool = False, foreign: bool = False) -> Loaded:
        """The checkpoint with some circumstances changed that must not matter."""
        entries = list(self.upstream.items())
        if foreign:
            entries = [*checkpoints.foreign(self.family, self.case).items(), *entries]
        if shuffle:
            random.Random(self.case.contents.seed).shuffle(entries)
        wrapped = checkpoints.wrap(dict(entries), wrapper or self.case.wrapper)
        return self.convert(self.place(wrapped))

    def on_meta(self) -> Trial:
        """The same case with checkpoint and model on the meta device."""
        return Trial(self.family, self.case, self.loader, checkpoint_device="meta")

    def upstream_output(self, image: Tensor, nudged: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Output of the upstream model on ``image``, in float64, its tensors ``nudged`` where asked."""
        state = {k: nudged(v.to(torch.float64)) if v.is_floating_point() else v for k, v in self.upstream.items()}
        arch = {**self.case.arch, **self.family.forward_arch(self.case)}
        return self.format.forward(state, image, arch)

    # -- comparing ---------------------------------------------------------------------------------------------------

    def compare(
        self, name: str, got: Tensor, want: Tensor, bound: Tensor | float, kind: str = "value"
    ) -> list[Problem]:
        """Problems of one tensor against what it should be within ``bound``; the fraction of the bound is recorded."""
        if got.shape != want.shape:
            return [Problem("shape", name, f"{name} is {tuple(got.shape)}, should be {tuple(want.shape)}")]
        got, want = got.cpu(), want.cpu()
        if got.dtype == want.dtype and torch.equal(got, want):
            return []
        error = (got.to(torch.float64) - want.to(torch.float64)).abs()
        fraction = bounds.fraction(error, bound)
        self.fractions.append(fraction)
        if fraction <= 1:
            return []
        worst = float(error.nan_to_num(float("inf")).max())
        text = f"{name} is off by {worst:.3g}, {fraction:.3g} times what rounding allows"
        return [Problem(kind, name, text, fraction if isfinite(fraction) else None)]

    def compare_all(
        self, got: Mapping[str, Tensor], want: Mapping[str, Tensor], bound: Callable[[str], Tensor]
    ) -> Iterator[Problem]:
        """Problems of every tensor of ``want`` that ``got`` lacks or has outside its ``bound``."""
        for name, tensor in want.items():
            if name not in got:
                yield Problem("missing-key", name, f"{name} is missing")
            else:
                yield from self.compare(name, got[name], tensor, bound(name))
