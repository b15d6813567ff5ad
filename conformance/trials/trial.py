"""A trial: one case on one loader. Its loads are shared by all invariants and done at most once, since loading is slow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from math import isqrt, prod
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
from ..targets.loader import Loader
from ..targets.models import fill_with_nan
from . import bounds
from .creation import Created, create, enter
from .damage import Damage, apply_damage
from .expectation import GRID, Expectation
from .loaded import Blocked, Loaded
from .problems import Problem, value_problem


def _has_rows_of_square(window: tuple[int, ...]) -> bool:
    """Whether a window is not square but its relative position table has as many rows as a square window's: 1x5, 14x2."""
    rows = prod(offsets(window))
    return len(set(window)) > 1 and isqrt(rows) ** 2 == rows


def _rounds_down_to(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether the largest square of rows in the table of ``old``, not square, is the whole table of ``new``, square: 2x3, 2x2."""
    rows, side = prod(offsets(old)), offsets(new)[0]
    return len(set(old)) > 1 and len(set(new)) == 1 and isqrt(rows) == side < rows / side


def _tensor_bytes(model: nn.Module) -> dict[str, bytes]:
    """The bytes of a model's tensors, which compare equal for NaN as well."""
    return {k: v.cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for k, v in model.state_dict().items()}


class Trial(Expectation):
    """One case on one loader: the expected tensors, the loaded ones, and their comparison."""

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
        if not self.loader.reads_saved(self.family, self.case):
            own.add("saved-unread")
        for whose, windows in zip(("", "models-"), zip(*self.tables.values())):
            if any(map(_has_rows_of_square, windows)):
                own.add(f"{whose}table-passes-for-square")
        if any(_rounds_down_to(*windows) for windows in self.tables.values()):
            own.add("table-rounds-to-models")
        return regimes(self.case, self.prefix_tokens) | self.family.tags(self.case) | own

    @cached_property
    def undecidable(self) -> str | None:
        """Why no loader could load this case correctly, or why this release does not support it; None otherwise."""
        case = self.case
        return (
            self.loader.unsupported(self.family, case)
            or self.family.undecidable(case)
            or self.family.undecidable_grid(case, default_size(case))
        )

    # -- loading -----------------------------------------------------------------------------------------------------

    def model(self, destination: Geometry | None = None, source: Geometry | None = None) -> nn.Module:
        """The destination model, which declares the input size of a checkpoint of ``source``."""
        destination = destination or self.case.destination
        declared = declared_size(self.family, self.case, source or self.case.source)
        return self.loader.model(self.family, self.case, destination, declared, self.device)

    def convert(
        self, checkpoint: Mapping[str, Any], *, destination: Geometry | None = None, source: Geometry | None = None
    ) -> Loaded:
        """Run the loader on ``checkpoint`` itself, without a copy. An exception is returned in the outcome, not raised."""
        model = self.model(destination, source)
        try:
            raw: Any = self.loader.convert(self.family, self.case.arch, checkpoint, model)
            if not isinstance(raw, Mapping) or not all(
                isinstance(k, str) and isinstance(v, Tensor) for k, v in raw.items()
            ):
                raise TypeError(f"the loader returned {type(raw).__name__}, not a dict of tensors by their names")
        except Exception as error:
            return Loaded(error, checkpoint)
        case = replace(self.case, destination=destination or self.case.destination, in_chans=None)
        own = {k: v.clone() for k, v in raw.items()}  # the loader may return the checkpoint's own tensors
        kept = self.own_buffers(model)
        state = self.family.canonical(case, {k: v for k, v in own.items() if k not in kept})
        return Loaded((own, state), checkpoint)

    def own_buffers(self, model: nn.Module) -> set[str]:
        """Buffers that only the release's model saves, such as old relative_position_index: in no format.

        A strict load judges them.
        """
        return {k for k, _ in model.named_buffers()} & model.state_dict().keys() - self.truth.keys()

    def load(
        self,
        state: Mapping[str, Tensor] | None = None,
        *,
        destination: Geometry | None = None,
        source: Geometry | None = None,
    ) -> Loaded:
        """Encode ``state``, in timm's layout at geometry ``source``, wrap it as the case says, and load it."""
        case = replace(self.case, source=source) if source else self.case
        upstream = self.upstream if state is None else state_dicts.encode(self.family, case, state)
        wrapped = wrappers.wrap(upstream, self.case.wrapper)
        return self.convert(self.to_device(wrapped), destination=destination, source=source)

    def to_device(self, checkpoint: Any) -> Any:
        """A deep copy of ``checkpoint`` on the trial's device, which a loader may modify."""
        return state_dicts.copy(checkpoint, self.device)

    @cached_property
    def base(self) -> Loaded:
        """The load of the case itself."""
        return self.load()

    @cached_property
    def written(self) -> dict[str, Tensor]:
        """The tensors of the case's file, with foreign ones beside the image tower's. They are on the trial's device."""
        upstream = {**self.upstream, **state_dicts.foreign(self.family, self.case)}
        # A .pth file saved from a GPU stores its device.
        return {k: v.to(self.device) for k, v in upstream.items()}

    @cached_property
    def created_model(self) -> Created:
        """The load of the case by ``create_model``."""
        return create(self.loader, self.family, self.case, self.written)

    @cached_property
    def by_door(self) -> Created:
        """The load of the same file by the case's door."""
        return enter(self.loader, self.family, self.case, self.written)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The loaded state dict. Raises :class:`Blocked` if the loader raised, which strict-load reports."""
        if not self.base.ok:
            raise Blocked("the load itself raises")
        return self.base.state

    @cached_property
    def raw(self) -> dict[str, Tensor]:
        """The loaded state dict in the model's own names and layout. Raises :class:`Blocked` like :attr:`state`."""
        _ = self.state
        return self.base.raw

    def tensor(self, name: str) -> Tensor:
        """A loaded tensor on the CPU. Raises :class:`Blocked` if it is missing or has another shape than the model's."""
        got, want = self.state.get(name), self.expected[name]
        if got is None or got.shape != want.shape:
            raise Blocked(f"{name} is missing or of the wrong shape")
        return got.cpu()

    def loaded_tensors(self, other: Loaded, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Tensors of another load on the CPU. Raises :class:`Blocked` if the load raised, or one is missing or misshapen."""
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
        """The load of the same checkpoint at its own geometry."""
        return self.base if self.case.native else self.load(destination=self.case.source)

    @cached_property
    def constant(self) -> tuple[dict[str, Tensor], Loaded]:
        """Other random tensors, in which every position of the grid holds the same vector, and their load."""
        state = state_dicts.truth(self.family, self.case, Contents("normal", self.case.contents.seed + 2))
        if GRID in state:
            state[GRID][:, self.prefix_rows :] = state[GRID][:, -1:]
        return state, self.load(state)

    @cached_property
    def flipped(self) -> Trial:
        """The trial with height and width exchanged in the checkpoint, in the geometries and in the expected tensors."""
        case = self.case
        case = replace(case, source=case.source.transposed(), destination=case.destination.transposed())
        other = Trial(self.family, case, self.loader, self.device)
        other.truth = self.transposed(self.truth, self.case.source)
        other.expected = self.transposed(self.expected, self.case.destination)
        return other

    @cached_property
    def variant(self) -> Loaded:
        """The load of the checkpoint in another wrapper, with shuffled keys and foreign tensors beside them.

        This one load serves three invariants. Only if it differs from the base are they judged by loads of their own.
        """
        return self.load_variant(wrapper=self.other_wrapper, shuffle=True, foreign=True)

    @cached_property
    def other_wrapper(self) -> str | None:
        """Another wrapper than the case's own that the release knows: "bare" if the format allows it; None if there is none."""
        wrappers = [w for w in self.family.wrappers if w != self.case.wrapper]
        known = [w for w in wrappers if not self.loader.unsupported(self.family, replace(self.case, wrapper=w))]
        if "bare" in known:
            return "bare"
        return known[self.case.contents.seed % len(known)] if known else None

    def load_variant(self, *, wrapper: str | None = None, shuffle: bool = False, foreign: bool = False) -> Loaded:
        """The load of the checkpoint with another wrapper, shuffled keys or foreign tensors, which must not matter."""
        entries = list(self.upstream.items())
        if foreign:
            entries = [*state_dicts.foreign(self.family, self.case).items(), *entries]
        if shuffle:
            random.Random(self.case.contents.seed).shuffle(entries)
        wrapped = wrappers.wrap(dict(entries), wrapper or self.case.wrapper)
        return self.convert(self.to_device(wrapped))

    @cached_property
    def damage(self) -> tuple[Damage, Mapping[str, Tensor]]:
        """The damage of the case, and the checkpoint with it in the upstream layout, without a wrapper."""
        return apply_damage(self)

    @cached_property
    def damaged(self) -> tuple[Loaded, list[str]]:
        """The load of the damaged checkpoint, and the names of the model's tensors that it changed."""
        model = self.model()
        if self.loader.writes_into_model(self.family):
            fill_with_nan(model)  # such a load does the same first
        before = _tensor_bytes(model)
        loaded = self.convert(self.to_device(wrappers.wrap(self.damage[1], self.case.wrapper)))
        after = _tensor_bytes(model)
        return loaded, [name for name in {**before, **after} if before.get(name) != after.get(name)]

    @cached_property
    def created_damaged(self) -> Created:
        """The load of a file of the damaged checkpoint by ``create_model``."""
        return create(self.loader, self.family, self.case, self.damage[1])

    def on_meta(self) -> Trial:
        """The same case with checkpoint and model on the meta device."""
        return Trial(self.family, self.case, self.loader, checkpoint_device="meta")

    # -- comparing ---------------------------------------------------------------------------------------------------

    def compare(
        self, name: str, got: Tensor, want: Tensor, bound: Tensor | float, kind: str = "value"
    ) -> list[Problem]:
        """Problems of tensor ``got`` against ``want`` within ``bound``. Records the error as a fraction of the bound."""
        if got.shape != want.shape:
            return [Problem("shape", name, f"{name} is {tuple(got.shape)}, should be {tuple(want.shape)}")]
        got, want = got.cpu(), want.cpu()
        if got.dtype == want.dtype and torch.equal(got, want):
            return []
        error = (got.to(torch.float64) - want.to(torch.float64)).abs()
        fraction = bounds.fraction(error, bound)
        self.fractions.append(fraction)
        return [] if fraction <= 1 else [value_problem(kind, name, got, want, bound)]

    def compare_all(
        self,
        got: Mapping[str, Tensor],
        want: Mapping[str, Tensor],
        bound: Callable[[str], Tensor],
        kind: str = "value",
    ) -> Iterator[Problem]:
        """Problems of the tensors in ``want`` that ``got`` lacks or that are outside their ``bound``."""
        for name, tensor in want.items():
            if name not in got:
                yield Problem("missing-key", name, f"{name} is missing")
            else:
                yield from self.compare(name, got[name], tensor, bound(name), kind)

    def compare_flipped(self, names: Iterable[str]) -> Iterator[Problem]:
        """Problems of tensors in the flipped load, which should equal this load's with height and width exchanged.

        Raises :class:`Blocked` if this load lacks one of them or has it in a wrong shape: other invariants report that.
        """
        want = self.transposed({name: self.tensor(name) for name in names}, self.case.destination)
        other = self.flipped
        if other.base.ok:
            yield from self.compare_all(other.state, want, lambda name: 2 * other.bound(name), "not-symmetric")
        else:
            yield other.base.problem("the load with height and width exchanged")
