"""A case for a script: its tensors are made by short plain code, and its loads are compared with the reference's.

A script cannot repeat the values of a case, since they depend on the suite's layouts and seeds. So the script's own code makes
the checkpoint anew, and the reference loads it again.
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
from ..trials.damage import EDITS, apply_damage, effective_damages
from ..trials.loaded import Loaded
from ..trials.problems import star_block_numbers
from ..trials.trial import Trial
from . import source_code


@dataclass(frozen=True)
class Circumstances:
    """A case, with or without foreign tensors, a shuffled order of keys, and damage to one tensor."""

    case: Case
    foreign: bool = False
    shuffled: bool = False
    damaged: str | None = None

    def __hash__(self) -> int:
        return hash((self.case.to_json(), self.foreign, self.shuffled))


@dataclass(frozen=True)
class Deviation:
    """One tensor that differs from the reference's. ``kind`` is shape, missing, unexpected or value.

    ``tensor`` is its name in the model. For a value, ``worst`` is the index of the worst element in the flattened tensor,
    ``error`` is the error there, and ``bound`` is what rounding allows.
    """

    kind: str
    tensor: str
    got: Tensor | None = None
    want: Tensor | None = None
    worst: int = 0
    error: float = 0.0
    bound: float = 0.0


class ScriptableCase:
    """A case under its circumstances, with a checkpoint made by code."""

    def __init__(self, circumstances: Circumstances, loader: Loader) -> None:
        self.case = case = circumstances.case
        self.loader = loader
        self.family = family = FAMILIES[case.family]
        self.original = original = Trial(family, case, loader)
        self.damage = ""
        entries = list(original.upstream.items())
        if circumstances.damaged is not None:
            self.damage, state = _damaged(original, circumstances.damaged)
            entries = list(state.items())
        if circumstances.foreign:
            entries = [*state_dicts.foreign(family, case).items(), *entries]
        if circumstances.shuffled:
            random.Random(case.contents.seed).shuffle(entries)
        nested = _nests(case.wrapper) and not case.saved
        flat = wrappers.wrap(dict(entries), "bare" if nested or case.saved else case.wrapper)
        self.code = source_code.checkpoint(flat, case.dtype, circumstances.shuffled)
        for name in reversed(case.wrapper.split(".") if nested else ()):
            self.code += f'\ncheckpoint = {{"{name}": checkpoint}}'
        self.code += "".join(f"\n{line}" for line in source_code.as_saved(case.saved_entry, case.saved_prefix))
        self.given = source_code.evaluate(self.code)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Shape of the destination model's images, ``(channels, height, width)``."""
        return self.case.arch.get("in_chans", 3), *self.family.img_size(self.case.arch, self.case.destination)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Arguments ``img_size`` and ``patch_size`` of the destination model."""
        return self.family.sizes(self.case.arch, self.case.destination)

    @property
    def created_sizes(self) -> dict[str, tuple[int, int]]:
        """The arguments of ``create_model`` that follow from the destination's geometry."""
        return self.family.created_sizes(self.case.arch, self.case.destination)

    @property
    def image(self) -> tuple[int, int, int, int]:
        """Shape of one image of the checkpoint's own size, ``(1, channels, height, width)``."""
        return 1, self.case.arch.get("in_chans", 3), *self.family.img_size(self.case.arch, self.case.source)

    @cached_property
    def trial(self) -> Trial:
        """The trial of the case with the new checkpoint. Raises an exception if the native model cannot be built."""
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
        """The reference's state dict for the destination model, with the model's own names."""
        return self._by_reference(self.trial.model())

    @cached_property
    def loaded(self) -> Loaded:
        """The load of the new checkpoint by the loader under test."""
        return self.trial.convert(self.trial.to_device(self.given))

    def deviations(self) -> Iterator[Deviation]:
        """Where the loader's conversion differs from the reference's; nothing if it raises."""
        if not self.loaded.ok:
            return
        shapes = {k: tuple(v.shape) for k, v in self.trial.model().state_dict().items()}
        yield from self._misfits(self.loaded.raw, shapes)
        yield from self._differences(self.loaded.raw, self.want)

    def created_deviations(self) -> Iterator[Deviation]:
        """The same for a model that ``create_model`` loads from a file, with the case's ``in_chans`` and ``num_classes``."""
        with scratch_folder() as folder:
            path = files.write(self.given, "bare", self.file, Path(folder))
            right = copy.copy(self.loader)
            right.target = Target("reference", "reference")
            want = right.create_model(self.family, self.case, path).state_dict()
            try:
                got = self.loader.create_model(self.family, self.case, path).state_dict()
            except Exception:  # the conversion itself shows what a strict load refuses
                yield from self.deviations()
                return
        yield from self._misfits(got, {k: tuple(v.shape) for k, v in want.items()})
        own = {k for k in want if k.startswith("head") and self.case.other_classes}
        yield from self._differences(got, {k: v for k, v in want.items() if k not in own})

    @property
    def file(self) -> str:
        """The container in which a checkpoint of this case can be written."""
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
            bound = torch.broadcast_to(self._bound(key, right), error.shape)
            over = error - bound
            if bool((over > 0).any()):
                worst = int(over.argmax())
                allowed = float(bound.flatten()[worst])
                yield Deviation("value", key, found, right, worst, float(error.flatten()[worst]), allowed)

    def _bound(self, key: str, tensor: Tensor) -> Tensor:
        """Largest difference of two correct loads of a tensor, neither of which is exact; elementwise if the bound is."""
        known = KERNEL if key.startswith("embeds.proj.") else key
        if self.case.in_chans is not None and known == self.family.first_conv(self.case.arch):
            bound = self.trial.created_bound(known)
        elif known in self.trial.geometric and self.trial.changed(known):
            bound = self.trial.bound(known)
        else:
            return torch.zeros(())
        try:
            torch.broadcast_to(bound, tensor.shape)
        except RuntimeError:  # the model has the tensor in another layout
            bound = bound.max()
        return 2 * bound + bounds.rounded_once(tensor, tensor.dtype)


def _damaged(trial: Trial, tensor: str) -> tuple[str, Mapping[str, Tensor]]:
    """A description of a case's damage, and the damaged checkpoint. ``tensor``, if given, is the tensor to damage.

    Raises :class:`LookupError` if damage of this kind to that tensor is impossible.
    """
    damage, state = apply_damage(trial)
    if tensor and star_block_numbers(damage.tensor) != tensor:
        edits = (edit for edit in EDITS[trial.case.damage](trial) if star_block_numbers(edit.tensor) == tensor)
        found = next(effective_damages(trial, edits), None)
        if found is None:
            raise LookupError(f"no damage to {tensor} in this checkpoint")
        damage, state = found
    return damage.what, state


def _nests(wrapper: str) -> bool:
    return wrapper != "bare" and "/" not in wrapper and wrapper != "scan"


def matches(deviation: Deviation, kind: str, tensor: str, family: Family) -> bool:
    """Whether a deviation is the subject of a problem of this kind and tensor.

    For models with names of their own, the tensor's name is not compared.
    """
    renamed = family.canonical.__name__ != "_unchanged"
    return deviation.kind == _CLASSES.get(kind, "value") and (renamed or star_block_numbers(deviation.tensor) == tensor)


_CLASSES = {
    "size-mismatch": "shape",
    "not-resampled": "shape",
    "shape": "shape",
    "missing-key": "missing",
    "unexpected-key": "unexpected",
}
