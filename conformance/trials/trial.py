"""A trial: one case on one loader, with everything the invariants share computed at most once.

Loading is expensive and judging is cheap, so invariants ask the trial, and the trial remembers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, isqrt, prod
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from ..cases.case import Case, Contents, Geometry
from ..cases.regimes import regimes
from ..checkpoints import state_dicts, wrappers
from ..families import Family
from ..reference.relative import offsets
from ..targets.declared_size import declared_size, default_size
from ..targets.loader import Loader, blank
from . import bounds
from .damage import Damage, inflict
from .expectation import GRID, Expectation
from .problems import Problem, raised


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


def _rounds_to(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether the largest square of rows in a non-square window's table, which has more, is another's whole table: 2x3 to 2x2."""
    rows, side = prod(offsets(old)), offsets(new)[0]
    return len(set(old)) > 1 and len(set(new)) == 1 and isqrt(rows) == side < rows / side


def _contents(model: nn.Module) -> dict[str, bytes]:
    """A model's tensors, NaN and all."""
    return {name: tensor.cpu().numpy().tobytes() for name, tensor in model.state_dict().items()}


class Trial(Expectation):
    """One case on one loader: what the case asks for, what the loader makes of it, and how far apart the two are."""

    def __init__(self, family: Family, case: Case, loader: Loader, checkpoint_device: str | None = None) -> None:
        super().__init__(family, case)
        self.loader = loader
        self.device = checkpoint_device or loader.device
        self.fractions: list[float] = []

    # -- the case ----------------------------------------------------------------------------------------------------

    @cached_property
    def regimes(self) -> frozenset[str]:
        """The regimes the case is in."""
        own = set() if self.device == "cpu" else {self.device, "off-cpu"}
        for whose, windows in zip(("", "models-"), zip(*self.tables.values())):
            if any(map(_passes_for_square, windows)):
                own.add(f"{whose}table-passes-for-square")
        if any(_rounds_to(*windows) for windows in self.tables.values()):
            own.add("table-rounds-to-models")
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
            if not isinstance(raw, Mapping) or not all(
                isinstance(k, str) and isinstance(v, Tensor) for k, v in raw.items()
            ):
                raise TypeError(f"the loader returned {type(raw).__name__}, not a dict of tensors by their names")
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
        upstream = self.upstream if state is None else state_dicts.encode(self.family, case, state)
        wrapped = wrappers.wrap(upstream, self.case.wrapper)
        return self.convert(self.place(wrapped), destination=destination, source=source)

    def place(self, checkpoint: Any) -> Any:
        """A deep copy of ``checkpoint`` on the trial's device: whatever a loader does to it, the trial keeps its own."""
        return state_dicts.copy(checkpoint, self.device)

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

    def loaded(self, other: Loaded, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Tensors of another load on the CPU; :class:`Blocked` where that load is broken otherwise."""
        if not other.ok:
            raise Blocked("the load itself raises")
        out = {}
        for name in names:
            if name not in other.state or other.state[name].shape != self.expected[name].shape:
                raise Blocked(f"{name} is missing or of the wrong shape")
            out[name] = other.state[name].cpu()
        return out

    @cached_property
    def native(self) -> Loaded:
        """The same checkpoint loaded at its own geometry."""
        return self.base if self.case.native else self.load(destination=self.case.source)

    @cached_property
    def constant(self) -> tuple[dict[str, Tensor], Loaded]:
        """Other random tensors in which every position of the grid holds the same vector, and their load."""
        state = state_dicts.truth(self.family, self.case, Contents("normal", self.case.contents.seed + 2))
        if GRID in state:
            state[GRID][:, self.prefix_rows :] = state[GRID][:, -1:]
        return state, self.load(state)

    @cached_property
    def flipped(self) -> Trial:
        """The same tensors with height and width exchanged everywhere, and what that asks for: this, turned as well."""
        case = self.case
        case = replace(case, source=case.source.transposed(), destination=case.destination.transposed())
        other = Trial(self.family, case, self.loader, self.device)
        other.truth = self.transposed(self.truth, self.case.source)
        other.expected = self.transposed(self.expected, self.case.destination)
        return other

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
            entries = [*state_dicts.foreign(self.family, self.case).items(), *entries]
        if shuffle:
            random.Random(self.case.contents.seed).shuffle(entries)
        wrapped = wrappers.wrap(dict(entries), wrapper or self.case.wrapper)
        return self.convert(self.place(wrapped))

    @cached_property
    def damage(self) -> tuple[Damage, Mapping[str, Tensor]]:
        """The damage of the case, and the checkpoint with it in the upstream layout, without a wrapper."""
        return inflict(self)

    @cached_property
    def damaged(self) -> tuple[Loaded, list[str]]:
        """What came of loading the damaged checkpoint, and which tensors of the model are others afterwards."""
        model = self.model()
        if self.loader.fills_models(self.family):
            blank(model)  # as it is anyway before such a load
        before = _contents(model)
        loaded = self.convert(self.place(wrappers.wrap(self.damage[1], self.case.wrapper)))
        after = _contents(model)
        return loaded, [name for name in {**before, **after} if before.get(name) != after.get(name)]

    def on_meta(self) -> Trial:
        """The same case with checkpoint and model on the meta device."""
        return Trial(self.family, self.case, self.loader, checkpoint_device="meta")

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
        self,
        got: Mapping[str, Tensor],
        want: Mapping[str, Tensor],
        bound: Callable[[str], Tensor],
        kind: str = "value",
    ) -> Iterator[Problem]:
        """Problems of every tensor of ``want`` that ``got`` lacks or has outside its ``bound``."""
        for name, tensor in want.items():
            if name not in got:
                yield Problem("missing-key", name, f"{name} is missing")
            else:
                yield from self.compare(name, got[name], tensor, bound(name), kind)

    def compare_flipped(self, names: Iterable[str]) -> Iterator[Problem]:
        """Problems of tensors that the flipped load should have as this one has them, turned.

        Only where this load itself lacks one, or has it in a wrong shape, is that another's to report: :class:`Blocked`.
        """
        want = self.transposed({name: self.tensor(name) for name in names}, self.case.destination)
        other = self.flipped
        if other.base.ok:
            yield from self.compare_all(other.state, want, lambda name: 2 * other.bound(name), "not-symmetric")
        else:
            yield other.base.problem("the load with height and width exchanged")
