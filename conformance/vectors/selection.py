"""Which cases become golden vectors: few and fixed, the same plan for every family at its smallest architecture.

A vector once published keeps its case: what is stored decides, and the plan only what is not there yet. So vectors change
with the formats and the laws, never with a strategy. To choose anew, delete the family's folder first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

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

# Of a checkpoint with more numbers (a convolutional stem, stored masks) there is one vector only, the one that asks most.
_LARGE = 5000


@dataclass(frozen=True)
class Choice:
    """One vector of every family. ``checkpoint`` names its file: choices that share one differ in the destination alone."""

    name: str
    comment: str
    checkpoint: str
    source: Geometry
    destination: Geometry
    half: bool = False
    damage: str = ""


_SOURCE = Geometry((3, 4), (4, 2))
_SQUARE = Geometry((3, 3), (3, 3))  # for formats of square patches or grids; what grows or shrinks is the same
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


def chosen(family: Family) -> dict[Choice, Case]:
    """The family's vectors, each with the case it was published with, or the one the plan gives it.

    What is added to a published family has its architecture. Raises :class:`UserError` for cases that cannot be read.
    """
    stored = stored_cases(FOLDER / family.name / VECTORS_JSON)
    first = next(iter(stored.values()), None)
    arch, model = (first.arch, first.model_name) if first else smallest(family)
    size = parameters(family, arch, _SOURCE) + sum(map(prod, family.foreign(arch).values()))
    choices = [choice for choice in CHOICES if choice.half or size <= _LARGE]
    return {c: stored.get(vector_id(family, c)) or _case(family, c, arch, model) for c in choices}


def vector_id(family: Family, choice: Choice) -> str:
    """A vector's name among all."""
    return f"{family.name}/{choice.name}"


class _Stored(msgspec.Struct):
    id: str
    case: Case


class _File(msgspec.Struct):
    vectors: list[_Stored]


def stored_cases(path: Path) -> dict[str, Case]:
    """The cases of published vectors, by id; none where there is no file. Raises :class:`UserError` for a broken one."""
    if not path.is_file():
        return {}
    try:
        return {v.id: v.case for v in msgspec.json.decode(path.read_bytes(), type=_File).vectors}
    except msgspec.DecodeError as error:
        raise UserError(f"{path} cannot be read: {error}; restore it, or delete it to choose its cases anew") from None


def smallest(family: Family) -> tuple[dict[str, Any], str]:
    """The simplest architecture a family draws, and the registered model that changes it least and makes it smallest."""
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
    """How many numbers a checkpoint holds."""
    return sum(map(prod, family.shapes(arch, geometry).values()))


def _case(family: Family, choice: Choice, arch: dict[str, Any], model: str) -> Case:
    """A choice as the family allows it. Small integers, which every machine and dtype makes the same."""
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
    """A geometry in which the family can be: square where the format is, and of whole stages."""
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
