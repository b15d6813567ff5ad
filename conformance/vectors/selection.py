"""Selects the cases of the golden vectors: few and fixed, by one plan for every family at its smallest architecture.

A published vector keeps its case: stored cases are used as they are, and the plan only adds missing ones. So vectors change
with the formats and the laws, and never with a strategy. To select cases anew, delete the family's folder first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import msgspec
from hypothesis import Phase, given, settings
from msgspec.structs import replace

from ..cases.case import Case, Contents, Geometry
from ..cases.fixtures import FIXTURES
from ..drawing.catalogue import RealModel, models_of
from ..errors import UserError
from ..families import Family
from ..targets.declared_size import default_size

FOLDER = FIXTURES / "vectors"
VECTORS_JSON = "vectors.json"

# A checkpoint with more numbers than this (a convolutional stem, stored masks) has only one vector, the most demanding one.
_LARGE = 5000


@dataclass(frozen=True)
class Choice:
    """The plan of one vector. ``checkpoint`` names its file. Choices with the same file differ only in the destination."""

    name: str
    comment: str
    checkpoint: str
    source: Geometry
    destination: Geometry
    half: bool = False
    damage: Literal["", "missing", "wider"] = ""


_SOURCE = Geometry((3, 4), (4, 2))
_SQUARE = Geometry((3, 3), (3, 3))  # for formats with square patches or grids; it grows and shrinks like _SOURCE
_TINY = Geometry((2, 2), (2, 2))

CHOICES = (
    Choice("native", "The checkpoint's own geometry: no value changes", "checkpoint", _SOURCE, _SOURCE),
    Choice("finer", "A smaller patch, a larger grid", "checkpoint", _SOURCE, Geometry((2, 3), (5, 4))),
    Choice("mixed", "One side grows while the other shrinks", "checkpoint", _SOURCE, Geometry((4, 2), (2, 4))),
    Choice(
        "half",
        "Half precision, a larger patch, a smaller grid",
        "checkpoint-half",
        Geometry((2, 2), (3, 3)),
        Geometry((3, 3), (2, 2)),
        half=True,
    ),
    Choice("missing", "A tensor is missing", "missing", _TINY, _TINY, damage="missing"),
    Choice("wider", "A tensor is twice as wide as it should be", "wider", _TINY, _TINY, damage="wider"),
)


def choose_cases(family: Family) -> dict[Choice, Case]:
    """The family's vectors, each with its published case, or with a new case from the plan.

    New cases of a published family have its architecture. Raises :class:`UserError` for cases that cannot be read.
    """
    stored = stored_cases(FOLDER / family.name / VECTORS_JSON)
    first = next(iter(stored.values()), None)
    arch, model = (first.arch, first.model_name) if first else smallest(family)
    size = parameters(family, arch, _SOURCE) + sum(map(prod, family.foreign(arch).values()))
    choices = [choice for choice in CHOICES if choice.half or size <= _LARGE]
    return {c: stored.get(vector_id(family, c)) or _case(family, c, arch, model) for c in choices}


def vector_id(family: Family, choice: Choice) -> str:
    """The id of a vector: ``family/choice``."""
    return f"{family.name}/{choice.name}"


class _Stored(msgspec.Struct):
    id: str
    case: Case


class _File(msgspec.Struct):
    vectors: list[_Stored]


def stored_cases(path: Path) -> dict[str, Case]:
    """The cases of published vectors by id; none without a file. Raises :class:`UserError` for a file that cannot be read."""
    if not path.is_file():
        return {}
    try:
        return {v.id: v.case for v in msgspec.json.decode(path.read_bytes(), type=_File).vectors}
    except msgspec.DecodeError as error:
        raise UserError(f"{path} cannot be read: {error}; restore it, or delete it to choose its cases anew") from None


def smallest(family: Family) -> tuple[dict[str, Any], str]:
    """The simplest architecture that a family draws, and the registered model that changes it least and is smallest."""
    found: list[dict[str, Any]] = []

    @settings(max_examples=1, phases=(Phase.generate,), database=None)  # the first example is the simplest
    @given(family.architectures)
    def visit(arch: dict[str, Any]) -> None:
        found.append(arch)

    visit()
    (arch,) = found

    def cost(model: RealModel) -> tuple[int, int]:
        options = family.by_model(model.name)
        return sum(arch.get(k, v) != v for k, v in options.items()), parameters(family, arch | options, _SQUARE)

    model = min(models_of(family), key=cost).name
    return arch | family.by_model(model), model


def parameters(family: Family, arch: Mapping[str, Any], geometry: Geometry) -> int:
    """The number of elements in a checkpoint's tensors."""
    return sum(map(prod, family.shapes(arch, geometry).values()))


def _case(family: Family, choice: Choice, arch: dict[str, Any], model: str) -> Case:
    """The case of a choice, as the family allows it. Its values are small integers, exact on every machine and in every dtype."""
    case = Case(
        family=family.name,
        arch=arch,
        source=_allowed(family, choice.source, source=True),
        destination=_allowed(family, choice.destination, source=choice.source == choice.destination),
        contents=Contents("integers", int(choice.half)),
        wrapper=family.wrappers[0],
        container=family.containers[0],
        model_name=model,
    )
    if not choice.half:
        return case
    case = replace(case, dtype="float16", wrapper=family.wrappers[-1])
    silent = replace(case, declared="absent")
    return case if family.undecidable_grid(silent, default_size(silent)) else silent


def _allowed(family: Family, wanted: Geometry, source: bool) -> Geometry:
    """The nearest geometry that the family allows: square if its format is, with sides that its stages divide."""
    patch, grid = wanted.patch_size, wanted.grid_size
    if source and family.square_patch:
        patch = patch if patch[0] == patch[1] else _SQUARE.patch_size
    if source and family.square_source_grid:
        grid = grid if grid[0] == grid[1] else _SQUARE.grid_size
    if family.square_grids == "always":
        grid = grid[0], grid[0]
    if family.max_patch == 1:
        patch = 1, 1
    return Geometry(patch, (grid[0] * family.grid_multiple, grid[1] * family.grid_multiple))
