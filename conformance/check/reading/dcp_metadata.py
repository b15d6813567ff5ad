"""Reads the ``.metadata`` of a torch.distributed.checkpoint folder, a pickle, without running it.

torch's own reader unpickles the file, which may call any function. Here a class in it becomes an inert record: a stand-in that
keeps what it is given and does nothing. Only the classes of such metadata are admitted. The file's opcodes are looked at first,
so that none of them takes more memory than the file is worth. What the records say is checked against the folder afterwards.

Source: pytorch/pytorch ``torch/distributed/checkpoint/metadata.py`` and ``filesystem.py``.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError
from ...reference.errors import some
from .limits import damaged, refused, require_held, require_memory, runs_code

NAME = ".metadata"
Shape = tuple[int, ...]
_MAX_BYTES = 64 * 2**20
_MAX_OPCODES = 2**22  # each makes a hundred bytes at most
_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *(
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "SHORT_BINUNICODE",
        "BINUNICODE",
    ),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
}
_METADATA = "torch.distributed.checkpoint.metadata"
_ADMITTED = {
    *((_METADATA, name) for name in ("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    *((_METADATA, name) for name in ("BytesStorageMetadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}


@dataclass(frozen=True)
class Place:
    """Where a chunk or an object lies: ``length`` bytes of ``file`` from ``offset`` on."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Declared:
    """A tensor as the metadata declares it, with its chunks: offsets and sizes, one a dimension."""

    dtype: torch.dtype
    size: Shape
    chunks: list[tuple[Shape, Shape]]


@dataclass(frozen=True)
class Contents:
    """What a folder holds. ``keys`` has the keys of the nested dicts in which each tensor or object lay when it was saved."""

    tensors: dict[str, Declared]
    objects: list[str]
    keys: dict[str, tuple[str | int, ...]]
    places: dict[tuple[str, Shape | None], Place]


def read_metadata(folder: Path) -> Contents:
    """What the folder's metadata says, checked against the files beside it. Raises :class:`UserError`."""
    path = folder / NAME
    try:
        found = _unpickled(path)
        contents = _contents(folder, found.state)
    except UserError:
        raise
    except Exception as error:  # what is missing in the records, or of another type
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    declared = sum(prod(t.size) * t.dtype.itemsize for t in contents.tensors.values())
    files = {place.file for place in contents.places.values()}
    require_held(folder, declared, sum(file.stat().st_size for file in files))
    require_memory(folder, declared)
    for name, tensor in contents.tensors.items():
        _require_covered(path, name, tensor)
    return contents


class _Record:
    """What stands in for an instance of a class: the arguments and the state that a pickle gives it."""

    name = ""

    def __new__(cls, *args: Any) -> _Record:
        self = object.__new__(cls)
        self.args, self.state = args, None
        return self

    args: tuple
    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


_RECORDS = {at: type(at[1], (_Record,), {"name": at[1]}) for at in _ADMITTED}


class _Inert(pickle.Unpickler):
    """An unpickler that knows records and torch's dtypes, and imports nothing."""

    path = Path()

    def find_class(self, module: str, name: str) -> Any:
        dtype = getattr(torch, name, None) if module == "torch" and "." not in name else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if (module, name) not in _RECORDS:
            raise runs_code(self.path, some([f"{module}.{name}"]))
        return _RECORDS[module, name]


def _unpickled(path: Path) -> _Record:
    """The outermost record of a pickle."""
    if path.stat().st_size > _MAX_BYTES:
        raise refused(path, f"metadata of {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read")
    content = path.read_bytes()
    for n, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in _OPCODES:
            raise refused(path, f"it has the pickle opcode {opcode.name}, which no such metadata has: not read")
        if n >= _MAX_OPCODES or (opcode.name.endswith("BINPUT") and (argument or 0) > n):
            raise refused(path, "its pickle takes more memory than metadata can: not read")
    reader = _Inert(io.BytesIO(content))
    reader.path = path
    found = reader.load()
    if not isinstance(found, _Record) or found.name != "Metadata":
        raise refused(path, "it holds no metadata of torch.distributed.checkpoint")
    return found


def _contents(folder: Path, state: Mapping[str, Any]) -> Contents:
    tensors, objects = {}, []
    for name, entry in state["state_dict_metadata"].items():
        if _record(entry).name == "BytesStorageMetadata":
            objects.append(_text(name))
        else:
            fields = _record(entry, "TensorStorageMetadata").state
            chunks = [_record(c, "ChunkStorageMetadata").state for c in fields["chunks"]]
            tensors[_text(name)] = Declared(
                _dtype(_record(fields["properties"], "TensorProperties").state),
                _shape(fields["size"]),
                [(_shape(c["offsets"]), _shape(c["sizes"])) for c in chunks],
            )
    places = {}
    for index, info in state["storage_data"].items():
        at, place = _record(index, "MetadataIndex").state, _record(info, "_StorageInfo").state
        offset = None if at.get("offset") is None else _shape(at["offset"])
        places[_text(at["fqn"]), offset] = _place(folder, place)
    keys = {_text(k): tuple(v) for k, v in (state.get("planner_data") or {}).items()}
    return Contents(tensors, objects, {k: v for k, v in keys.items() if _are_keys(v)}, places)


def _place(folder: Path, info: Mapping[str, Any]) -> Place:
    name, offset, length = _text(info["relative_path"]), _natural(info["offset"]), _natural(info["length"])
    file = folder / name
    if Path(name).name != name or name in (".", ".."):
        raise refused(folder / NAME, f"it names files outside the folder: {some([name])}")
    if not file.is_file():
        raise refused(folder, f"a part of the checkpoint is missing, get it again: {some([name])}")
    if offset + length > file.stat().st_size:
        raise refused(file, f"cut off: its metadata declares {offset + length:,} bytes, it has {file.stat().st_size:,}")
    if info.get("transform_descriptors"):
        raise refused(folder, "its files went through an extension of torch.distributed.checkpoint; save them without")
    return Place(file, offset, length)


def _require_covered(path: Path, name: str, tensor: Declared) -> None:
    """Raise :class:`UserError` unless the chunks fill the tensor, each element once."""
    inside = all(
        len(offsets) == len(sizes) == len(tensor.size)
        and all(o + n <= whole for o, n, whole in zip(offsets, sizes, tensor.size))
        for offsets, sizes in tensor.chunks
    )
    whole = inside and sum(prod(sizes) for _, sizes in tensor.chunks) == prod(tensor.size)
    if whole and len(tensor.chunks) > 1:
        filled = torch.zeros(tensor.size, dtype=torch.bool, device="cpu")
        for offsets, sizes in tensor.chunks:
            filled[tuple(slice(o, o + n) for o, n in zip(offsets, sizes))] = True
        whole = bool(filled.all())
    if not whole:
        raise refused(path, f"the chunks of {some([name])} do not make up its shape {tensor.size}")


def _record(value: Any, name: str = "") -> _Record:
    if not isinstance(value, _Record) or (name and value.name != name):
        raise TypeError(f"a {name or 'record'} is a {type(value).__name__}")
    return value


def _shape(value: Any) -> Shape:
    """A ``torch.Size``."""
    (sizes,) = _record(value, "Size").args
    return tuple(_natural(n) for n in sizes)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError(f"{value!r:.20} is no size")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a name is a {type(value).__name__}")
    return value


def _dtype(properties: Any) -> torch.dtype:
    """The dtype of ``TensorProperties``, the first element of its state."""
    dtype = properties[0]
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"a dtype is a {type(dtype).__name__}")
    return dtype


def _are_keys(keys: tuple) -> bool:
    return bool(keys) and all(isinstance(key, (str, int)) for key in keys)
