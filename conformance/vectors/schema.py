"""What the JSON of the golden vectors says: ``vectors.json`` of a family, and the index of all.

The docstrings and fields here are the published JSON Schema, ``fixtures/vectors/schema.json``.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any, Literal

import msgspec

from ..cases.case import Case, Size

SCHEMA = 1
# Of the vectors: the first number changes when a vector that was there says something else, the second when some are added.
VERSION = "1.1"

# Sizes are read more easily on one line.
_NUMBERS = re.compile(rb"(?<=\[)[\d\s,]+(?=\])")

Law = Literal["pi-resize", "grid", "window", "bias-table", "axis-table"]


class File(msgspec.Struct, frozen=True):
    """A safetensors file in the folder of its family, without metadata."""

    file: str
    sha256: str


class Checkpoint(msgspec.Struct, frozen=True):
    """The upstream checkpoint: the tensors of one flat dict, by the names they have in upstream's file.

    ``wrapper`` are the keys under which that dict lies in upstream's file, outermost first; empty where it is the file itself.
    """

    file: str
    sha256: str
    wrapper: list[str]


class Sizes(msgspec.Struct, frozen=True):
    """A geometry, each size ``[height, width]``: the patch kernel, the grid of patch tokens, the image in pixels."""

    patch_size: Size
    grid_size: Size
    img_size: Size


class Interpolation(msgspec.Struct, frozen=True):
    """How the format's patch kernels and position grids are interpolated. A kernel never aligns corners."""

    mode: Literal["bilinear", "bicubic"]
    antialias: bool
    align_corners: bool


class Resampled(msgspec.Struct, frozen=True):
    """A tensor that has to be resampled, by which law (docs/vectors.md), from which size to which.

    ``kept_rows`` rows are no part of what is resampled and stay as they are: the first ones of positions (prefix tokens), the
    last ones of a bias table. ``tolerance`` is the largest absolute error that float32 arithmetic can excuse.
    """

    law: Law
    source_size: list[int]
    destination_size: list[int]
    tolerance: float
    kept_rows: int = 0


class Bug(msgspec.Struct, frozen=True):
    """An entry of the ledger of known bugs, and the releases of timm that have it."""

    id: str
    releases: str


class Vector(msgspec.Struct, frozen=True, kw_only=True):
    """What every vector says.

    ``flags`` are the regimes the vector exercises. ``input_size`` is the image size ``[height, width]`` that the caller
    declares for the checkpoint, or null. ``case`` is what the vector is generated from.
    """

    id: str
    comment: str
    flags: list[str]
    checkpoint: Checkpoint
    source: Sizes
    destination: Sizes
    input_size: Size | None
    case: Case


class Valid(Vector, frozen=True, kw_only=True, tag="valid", tag_field="result"):
    """A checkpoint that a loader must load into the expected tensors.

    Every tensor must be there, no other may, each in the shape and dtype it has there. One in ``resampled`` may be off by its
    tolerance, all others are equal bit for bit. ``timm_bugs`` are the known bugs of timm in whose reach the vector is: releases
    that have one may get it wrong, all others that know such checkpoints get it right.
    """

    expected: File
    resampled: dict[str, Resampled]
    timm_bugs: list[Bug]


class Invalid(Vector, frozen=True, kw_only=True, tag="invalid", tag_field="result"):
    """A checkpoint that a loader must refuse: ``tensor``, by upstream's name, is missing, or twice as wide as it should be."""

    damage: Literal["missing", "wider"]
    tensor: str


class Model(msgspec.Struct, frozen=True):
    """The model to load into: a class of timm, and its constructor's options beside ``img_size`` and ``patch_size``.

    An object with a ``class`` stands for that class, called with the arguments beside it as well as the model's own.
    ``registered`` is a registered timm model of this kind. ``names`` is the timm class by whose tensor names, and in whose
    layout, the expected tensors are; positions are always a list of rows, and patch kernels of four axes.
    """

    module: str
    class_: str = msgspec.field(name="class")
    registered: str
    names: str
    options: dict[str, Any]


class Vectors(msgspec.Struct, frozen=True):
    """``vectors.json``: the vectors of one family of checkpoints, and what they have in common.

    ``upstream`` is where the format comes from, ``first_release`` the first timm that reads it.
    """

    schema: int
    family: str
    upstream: str
    first_release: str
    model: Model
    num_prefix_tokens: int
    interpolation: Interpolation
    vectors: list[Valid | Invalid]


class Index(msgspec.Struct, frozen=True):
    """``index.json``: the version of the vectors, how many there are, of each family, and with each flag."""

    schema: int
    version: str
    vectors: int
    families: dict[str, int]
    flags: dict[str, int]


def encode(document: Vectors | Index) -> bytes:
    """Canonical JSON: equal documents give equal bytes."""
    text = msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=1)
    return _NUMBERS.sub(lambda found: b" ".join(found[0].split()), text) + b"\n"


def json_schema() -> bytes:
    """JSON Schema of both documents."""
    (vectors, index), parts = msgspec.json.schema_components((Vectors, Index), ref_template="#/$defs/{name}")
    for part in parts.values():
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Golden vectors of timm-conformance",
        "description": "vectors.json of a family, or index.json. A reader skips fields that it does not know.",
        "anyOf": [vectors, index],
        "$defs": parts,
    }
    return (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode()
