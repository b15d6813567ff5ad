"""Writes the folder of golden vectors, and compares a stored folder with the generated one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import EXIT_EXPECTED, EXIT_FAILURE, UserError, choose
from ..families import READ
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..report.publish import make_folder
from . import schema
from .generation import FamilyVectors, digest, make_vectors
from .selection import VECTORS_JSON, choose_cases

INDEX = "index.json"
JSON_SCHEMA = "schema.json"
# A stored buffer that upstream computes with a logarithm. Its last bit depends on the machine; all other tensors are exact.
COMPUTED = "relative_coords_table"
_LAST_BIT = 1e-6


def command(names: Iterable[str], out: Path, check: bool) -> int:
    """Write the vectors of the named families (none: all) to ``out``, or compare ``out`` with them; returns the exit code."""
    names = list(names)
    if check and not out.is_dir():
        raise UserError(f"{out}: there are no vectors; write them with timm-conformance vectors -o {out}")
    made = generate(names)
    if check:
        found = list(differences(out, made, whole=not names))
        for line in found:
            click.echo(f"DIFFERS  {line}")
        click.echo(f"{_count(made)} in {out}: " + (f"{len(found)} differences" if found else "as generated"))
        return EXIT_FAILURE if found else EXIT_EXPECTED
    write(make_folder(out, "-o"), made)
    click.echo(f"{_count(made)} written to {out}")
    return EXIT_EXPECTED


def _count(made: Mapping[str, FamilyVectors]) -> str:
    families = f"{len(made)} families" if len(made) > 1 else "1 family"
    return f"{sum(len(m.vectors.vectors) for m in made.values())} vectors of {families}"


def generate(names: Iterable[str] = ()) -> dict[str, FamilyVectors]:
    """The vectors of the named families (none: all). Raises :class:`UserError` for a name that does not exist."""
    entries = load_ledger(DEFAULT_LEDGER).entries
    return {name: make_vectors(READ[name], choose_cases(READ[name]), entries) for name in choose("family", names, READ)}


def index(documents: Iterable[schema.Vectors]) -> schema.Index:
    """The index of the families' documents."""
    documents = list(documents)
    flags = Counter(flag for document in documents for vector in document.vectors for flag in vector.flags)
    counts = {document.family: len(document.vectors) for document in documents}
    return schema.Index(schema.SCHEMA, schema.VERSION, sum(counts.values()), counts, dict(flags))


def read(path: Path) -> schema.Vectors:
    """One family's ``vectors.json``. Raises :class:`UserError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=schema.Vectors)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; write it with timm-conformance vectors") from None
    except msgspec.DecodeError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def write(out: Path, made: Mapping[str, FamilyVectors]) -> None:
    """Write the families' folders, the index of all families in ``out``, and the JSON Schema.

    A stored file that agrees within its tolerances stays as it is, since machines round differently.
    """
    for name, family in made.items():
        folder = make_folder(out / name, "-o")
        tolerances = _tolerances(family)
        kept = {}
        for file, tensors in family.files.items():
            path = folder / file
            if path.is_file() and not any(_tensors(path, tensors, tolerances[file])):
                kept[file] = digest(path.read_bytes())
            else:
                path.write_bytes(save(tensors))
        (folder / VECTORS_JSON).write_bytes(schema.encode(_with_digests(family.vectors, kept)))
    stored = (out / name / VECTORS_JSON for name in READ)
    (out / INDEX).write_bytes(schema.encode(index(read(path) for path in stored if path.is_file())))
    (out / JSON_SCHEMA).write_bytes(schema.json_schema())


def differences(out: Path, made: Mapping[str, FamilyVectors], whole: bool) -> Iterator[str]:
    """Differences between the stored folder and the generated vectors, one line each.

    Index and schema are compared if ``made`` holds all families (``whole``). Resampled tensors may differ by their tolerance,
    since machines round differently.
    """
    for name, family in made.items():
        yield from _of_family(out / name, family)
    if whole:
        files = {
            INDEX: schema.encode(index(family.vectors for family in made.values())),
            JSON_SCHEMA: schema.json_schema(),
        }
        for name, data in files.items():
            if not (out / name).is_file() or (out / name).read_bytes() != data:
                yield f"{name} is not what is generated"
    known = {out / name / file for name, family in made.items() for file in family.files}
    for path in sorted(out.glob("*/*.safetensors")):
        if (whole or path.parent.name in made) and path not in known:
            yield f"{path.parent.name}/{path.name} belongs to no vector: delete it"


def _of_family(path: Path, made: FamilyVectors) -> Iterator[str]:
    try:
        stored = read(path / VECTORS_JSON)
    except UserError as error:
        yield str(error)
        return
    old, new = _statements(stored), _statements(made.vectors)
    for where in sorted(old.keys() | new.keys()):
        if old.get(where) != new.get(where):
            yield f"{where} is {'other than' if where in old and where in new else 'not'} what is generated"
    digests = {file.file: file.sha256 for file in _files(stored)}
    tolerances = _tolerances(made)
    for name, tensors in made.files.items():
        file = path / name
        if not file.is_file():
            yield f"{path.name}/{name} is missing"
        elif name in digests and digest(file.read_bytes()) != digests[name]:
            yield f"{path.name}/{name} is another file than {VECTORS_JSON} says: its sha256 differs"
        else:
            yield from (f"{path.name}/{name}: {p}" for p in _tensors(file, tensors, tolerances[name]))


def _tolerances(made: FamilyVectors) -> dict[str, dict[str, float]]:
    """What each tensor of each file may be off by; a tensor that is not named is exact."""
    found = {name: {k: _LAST_BIT for k in tensors if k.endswith(COMPUTED)} for name, tensors in made.files.items()}
    for vector in made.vectors.vectors:
        if isinstance(vector, schema.Valid):
            found[vector.expected.file] = {k: how.tolerance for k, how in vector.resampled.items()}
    return found


def _with_digests(document: schema.Vectors, kept: Mapping[str, str]) -> schema.Vectors:
    """The document with the sha256 of these files."""

    def said(file: Any) -> Any:
        return replace(file, sha256=kept.get(file.file, file.sha256))

    return replace(
        document,
        vectors=[
            replace(v, checkpoint=said(v.checkpoint), expected=said(v.expected))
            if isinstance(v, schema.Valid)
            else replace(v, checkpoint=said(v.checkpoint))
            for v in document.vectors
        ],
    )


def _files(document: schema.Vectors) -> Iterator[schema.File | schema.Checkpoint]:
    for vector in document.vectors:
        yield vector.checkpoint
        if isinstance(vector, schema.Valid):
            yield vector.expected


def _statements(document: schema.Vectors) -> dict[str, Any]:
    """The fields of a document by place: those of the family and of each vector. Digests are left out and compared elsewhere."""
    fields = msgspec.to_builtins(document)
    said = {vector["id"]: vector for vector in fields.pop("vectors")}
    for vector in said.values():
        for file in ("checkpoint", "expected"):
            vector.get(file, {}).pop("sha256", None)
    return {
        f"{where}: {name}": value
        for where, fields in {f"{document.family}/{VECTORS_JSON}": fields, **said}.items()
        for name, value in fields.items()
    }


def _tensors(path: Path, made: Mapping[str, Tensor], tolerances: Mapping[str, float]) -> Iterator[str]:
    """Differences between a file's tensors and the generated ones, one line each."""
    try:
        stored = load(path.read_bytes())
    except SafetensorError as error:
        yield f"cannot be read: {error}"
        return
    for name in sorted(stored.keys() | made.keys()):
        old, new = stored.get(name), made.get(name)
        if old is None or new is None:
            yield f"{name} is {'missing' if old is None else 'in no checkpoint of this kind'}"
        elif (old.shape, old.dtype) != (new.shape, new.dtype):
            yield f"{name} is {old.dtype} {tuple(old.shape)}, should be {new.dtype} {tuple(new.shape)}"
        elif old.numel() and not (off := float((old.double() - new.double()).abs().max())) <= tolerances.get(name, 0.0):
            yield f"{name} is off by {off:.3g}, {tolerances.get(name, 0.0):.3g} is allowed"
