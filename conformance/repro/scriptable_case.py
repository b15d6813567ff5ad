"""A case with tensors that plain code can draw, and where the loader's result leaves the reference's.

The values of a case come out of a layout and a seed no script can repeat. So the checkpoint is drawn again by the script's
own code, and what is right for it is asked of the reference once more.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from .. import reference
from ..cases.case import Case
from ..checkpoints import files, state_dicts, wrappers
from ..families import FAMILIES, Family
from ..families.base import KERNEL
from ..targets.loader import Loader
from ..targets.scratch import scratch_folder
from ..targets.target import Target
from ..trials import bounds
from ..trials.damage import EDITS, damages, inflict
from ..trials.problems import starred
from ..trials.trial import Loaded, Trial
from . import source_code


@dataclass(frozen=True)
class Circumstances:
    """A case, and what else is to be with its tensors: text towers and the like, another order, damage to one of them."""

    case: Case
    foreign: bool = False
    shuffled: bool = False
    damaged: str | None = None

    def __hash__(self) -> int:
        return hash((self.case.to_json(), self.foreign, self.shuffled))


@dataclass(frozen=True)
class Deviation:
    """One tensor that is not what the reference makes of it: ``kind`` is shape, missing, unexpected or value.

    ``tensor`` is the model's own name for it. A value is off by ``error`` at its ``worst`` element (of the flattened tensor),
    where rounding allows ``bound``.
    """

    kind: str
    tensor: str
    got: Tensor | None = None
    want: Tensor | None = None
    worst: int = 0
    error: float = 0.0
    bound: float = 0.0


class Redrawn:
    """A case under its circumstances, its checkpoint drawn by code."""

    def __init__(self, circumstances: Circumstances, loader: Loader) -> None:
        self.case = case = circumstances.case
        self.loader = loader
        self.family = family = FAMILIES[case.family]
        self.as_drawn = as_drawn = Trial(family, case, loader)
        self.damage = ""
        entries = list(as_drawn.upstream.items())
        if circumstances.damaged is not None:
            self.damage, state = _damaged(as_drawn, circumstances.damaged)
            entries = list(state.items())
        if circumstances.foreign:
            entries = [*state_dicts.foreign(family, case).items(), *entries]
        if circumstances.shuffled:
            random.Random(case.contents.seed).shuffle(entries)
        nested = _nests(case.wrapper)
        flat = wrappers.wrap(dict(entries), "bare" if nested else case.wrapper)
        self.code = source_code.checkpoint(flat, case.dtype, circumstances.shuffled)
        for name in reversed(case.wrapper.split(".") if nested else ()):
            self.code += f'\ncheckpoint = {{"{name}": checkpoint}}'
        self.given = source_code.evaluate(self.code)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """The images of the destination model, ``(channels, height, width)``."""
        return self.case.arch.get("in_chans", 3), *self.family.img_size(self.case.arch, self.case.destination)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """What the destination model is asked for: ``img_size`` and ``patch_size``."""
        return self.family.sizes(self.case.arch, self.case.destination)

    @property
    def image(self) -> tuple[int, int, int, int]:
        """One image of the checkpoint's own size, ``(1, channels, height, width)``."""
        return 1, self.case.arch.get("in_chans", 3), *self.family.img_size(self.case.arch, self.case.source)

    @cached_property
    def trial(self) -> Trial:
        """The trial of the case, given what others make from its recipe. Raises what keeps a native model from being built."""
        trial = Trial(self.family, self.case, self.loader)
        native = replace(self.case, destination=self.case.source, in_chans=None)
        trial.truth = self.family.canonical(native, self._by_reference(trial.model(self.case.source)))
        trial.upstream = reference.unwrap(self.given)
        return trial

    def _by_reference(self, model: torch.nn.Module) -> dict[str, Tensor]:
        arch, size = self.case.arch, self.family.img_size(self.case.arch, self.case.source)
        return reference.load_state_dict(self.given, model, input_size=size, resampling=self.family.resampling(arch))

    @cached_property
    def want(self) -> dict[str, Tensor]:
        """What a strict load of the destination model needs, by the model's own names."""
        return self._by_reference(self.trial.model())

    @cached_property
    def loaded(self) -> Loaded:
        """What the loader under test makes of it."""
        return self.trial.convert(self.trial.place(self.given))

    def deviations(self) -> Iterator[Deviation]:
        """Where the conversion leaves the reference's, if it ends at all."""
        if not self.loaded.ok:
            return
        shapes = {k: tuple(v.shape) for k, v in self.trial.model().state_dict().items()}
        yield from self._misfits(self.loaded.raw, shapes)
        yield from self._differences(self.loaded.raw, self.want)

    def created_deviations(self) -> Iterator[Deviation]:
        """The same for a model that ``create_model`` made of a file, as asked by ``in_chans`` and ``num_classes``."""
        with scratch_folder() as folder:
            path = files.write(self.given, "bare", self.file, Path(folder))
            right = copy.copy(self.loader)
            right.target = Target("reference", "reference")
            want = right.create_model(self.family, self.case, path).state_dict()
            try:
                got = self.loader.create_model(self.family, self.case, path).state_dict()
            except Exception:  # what a strict load refuses, the conversion itself tells
                yield from self.deviations()
                return
        yield from self._misfits(got, {k: tuple(v.shape) for k, v in want.items()})
        own = {k for k in want if k.startswith("head") and self.case.num_classes is not None}
        yield from self._differences(got, {k: v for k, v in want.items() if k not in own})

    @property
    def file(self) -> str:
        """The container a checkpoint of this case can be written to."""
        nested = any(isinstance(v, dict) for v in self.given.values())
        return "pth" if nested or self.case.container == "memory" else self.case.container

    def _misfits(self, got: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> Iterator[Deviation]:
        for key, shape in shapes.items():
            if key not in got:
                yield Deviation("missing", key)
            elif tuple(got[key].shape) != shape:
                yield Deviation("shape", key)
        yield from (Deviation("unexpected", key) for key in got if key not in shapes)

    def _differences(self, got: dict[str, Tensor], want: dict[str, Tensor]) -> Iterator[Deviation]:
        for key, right in want.items():
            found = got.get(key)
            if found is None or found.shape != right.shape or not right.is_floating_point():
                continue
            error = (found.double() - right.double()).abs().nan_to_num(float("inf"))
            over = error - self._bound(key, right)
            if bool((over > 0).any()):
                worst = int(over.argmax())
                bound = float((error - over).flatten()[worst])
                yield Deviation("value", key, found, right, worst, float(error.flatten()[worst]), bound)

    def _bound(self, key: str, tensor: Tensor) -> Tensor:
        """What two correct loads of a tensor may differ by, elementwise where that is known so: neither is exact."""
        known = KERNEL if key.startswith("embeds.proj.") else key
        if self.case.in_chans is not None and known == self.family.first_conv(self.case.arch):
            bound = self.trial.created_bound(known)
        elif known in self.trial.geometric and self.trial.changed(known):
            bound = self.trial.bound(known)
        else:
            return torch.zeros(())
        try:
            torch.broadcast_to(bound, tensor.shape)
        except RuntimeError:  # the model holds it in another layout
            bound = bound.max()
        return 2 * bound + bounds.rounding(tensor, tensor.dtype)


def _damaged(trial: Trial, tensor: str) -> tuple[str, Mapping[str, Tensor]]:
    """The damage of a case in words, and the damaged checkpoint; the same to a ``tensor``, where the case has another's.

    Raises :class:`LookupError` where there is none.
    """
    damage, state = inflict(trial)
    if tensor and starred(damage.tensor) != tensor:
        edits = (edit for edit in EDITS[trial.case.damage](trial) if starred(edit.tensor) == tensor)
        found = next(damages(trial, edits), None)
        if found is None:
            raise LookupError(f"no damage to {tensor} in this checkpoint")
        damage, state = found
    return damage.what, state


def _nests(wrapper: str) -> bool:
    return wrapper != "bare" and "/" not in wrapper and wrapper != "scan"


def matches(deviation: Deviation, kind: str, tensor: str, family: Family) -> bool:
    """Whether a deviation is what a problem of this kind and tensor is about; of models with names of their own, any is."""
    renamed = family.canonical.__name__ != "_unchanged"
    return deviation.kind == _CLASSES.get(kind, "value") and (renamed or starred(deviation.tensor) == tensor)


_CLASSES = {
    "size-mismatch": "shape",
    "not-resampled": "shape",
    "shape": "shape",
    "missing-key": "missing",
    "unexpected-key": "unexpected",
}
