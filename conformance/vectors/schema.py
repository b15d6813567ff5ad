"""The JSON documents of the golden vectors: ``vectors.json`` of each family, and ``index.json``.

The fields and docstrings of this module make the published JSON Schema, ``fixtures/vectors/schema.json``.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any, Literal

import msgspec

from ..cases.case import Case, Size

SCHEMA = 1
# Version of the vectors. The first number changes with the content of a published vector, the second with added vectors.
VERSION = "3.0"

# Lists of numbers, which are written on one line.
_NUMBERS = re.compile(rb"(?<=\[)[\d\s,]+(?=\])")

Law = Literal["pi-resize", "grid", "window", "bias-table", "axis-table"]


class File(msgspec.Struct, frozen=True):
    """A safetensors file without metadata in the folder of its family."""

    file: str
    sha256: str


class Checkpoint(msgspec.Struct, frozen=True):
    """The upstream checkpoint: one flat dict of tensors with the names of upstream's file.

    ``wrapper`` are the keys under which that dict lies in upstream's file, outermost first. It is empty if the dict is the
    file itself.
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
    """How the format's patch kernels and position grids are interpolated. Kernels are never interpolated with aligned corners."""

    mode: Literal["bilinear", "bicubic"]
    antialias: bool
    align_corners: bool


class Resampled(msgspec.Struct, frozen=True):
    """A tensor that has to be resampled: the law (docs/vectors.md), the source size and the destination size.

    ``kept_rows`` rows are not resampled and stay as they are: the first ones of positions (prefix tokens), the last ones of a
    bias table. ``tolerance`` is the largest absolute error that float32 arithmetic explains.
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
    """The fields of every vector.

    ``flags`` are the vector's regimes. ``input_size`` is the image size ``[height, width]`` that the caller declares for the
    checkpoint, or null. ``case`` is the case from which the vector is generated.
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

    The result must have exactly these tensors, each with the shape and dtype of the expected file. A tensor in ``resampled``
    may differ by its tolerance; all others must be equal bit for bit. ``timm_bugs`` are known bugs of timm that concern the
    vector: a release with one of them may load it wrong, any other release that knows such checkpoints loads it right.
    """

    expected: File
    resampled: dict[str, Resampled]
    timm_bugs: list[Bug]


class Invalid(Vector, frozen=True, kw_only=True, tag="invalid", tag_field="result"):
    """A checkpoint that a loader must refuse: ``tensor`` (upstream's name) is missing, or twice as wide as it should be."""

    damage: Literal["missing", "wider"]
    tensor: str


class Model(msgspec.Struct, frozen=True):
    """The model to load into: a class of timm, and its constructor's options without ``img_size`` and ``patch_size``.

    An object with a ``class`` stands for that class with the other entries as further arguments. ``registered`` is a
    registered timm model of this kind. ``names`` is the timm class whose tensor names and layout the expected tensors have.
    Positions are always a list of rows, and patch kernels have four axes.
    """

    module: str
    class_: str = msgspec.field(name="class")
    registered: str
    names: str
    options: dict[str, Any]


class Vectors(msgspec.Struct, frozen=True):
    """``vectors.json``: the vectors of one family, and their common fields.

    ``upstream`` is the source of the format, ``complete_since`` the first timm release that reads it in full.
    """

    schema: int
    family: str
    upstream: str
    complete_since: str
    model: Model
    num_prefix_tokens: int
    interpolation: Interpolation
    vectors: list[Valid | Invalid]


class Index(msgspec.Struct, frozen=True):
    """``index.json``: the version of the vectors, and their number in total, in each family, and with each flag."""

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
