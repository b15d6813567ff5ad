"""Reads what ``flax.serialization.to_bytes`` wrote, without flax: msgpack with arrays as an extension type.

Source: google/flax ``flax/serialization.py``. Extension 1 is an array, 3 a scalar of NumPy: a tuple of shape, name of the dtype
and bytes. An array of more than 2**30 bytes is a map of its pieces. The file is mapped into memory and decoded one level at a
time, so that no more than its maps and one array are in memory beside the tensors.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from ...reference.errors import some
from .limits import refused, require_memory
from .numpy_files import tensor_of

_ARRAYS = (1, 3)
_PIECES = "__msgpack_chunked_array__"
# As many entries as no tree of a Vision Transformer has, with its optimizer. Each takes a hundred bytes of memory or more.
_MAX_ENTRIES = 2**20
_MAX_DEPTH = 64
_DTYPES = (
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

_Node = dict[str, msgspec.Raw]
_decode_map = msgspec.msgpack.Decoder(_Node).decode
_decode_any = msgspec.msgpack.Decoder().decode
_decode_array = msgspec.msgpack.Decoder(tuple[tuple[int, ...], str, memoryview]).decode


class _Tree(Mapping[str, np.ndarray]):
    """The arrays of a file by the names of their tree, joined by ``/``. Other leaves, such as numbers, are left out."""

    def __init__(self, path: Path, content: Any) -> None:
        self.path = path
        self.nodes: dict[str, Any] = {}
        self._left = _MAX_ENTRIES
        self._walk("", content, _MAX_DEPTH)

    def __getitem__(self, name: str) -> np.ndarray:
        leaf = self.nodes[name]
        return self._array(name, leaf) if isinstance(leaf, memoryview) else self._joined(name, leaf)

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def _walk(self, name: str, content: Any, levels: int) -> None:
        if not levels:
            raise refused(self.path, f"a tree of more than {_MAX_DEPTH} levels: no model has such")
        node = self._map(content)
        if _PIECES in node:
            self.nodes[name] = node
            return
        for key, value in node.items():
            inner = f"{name}/{key}" if name else key
            if inner in self.nodes:
                raise refused(self.path, f"it has two entries of the name {some([inner])}")
            if _is_map(value):
                self._walk(inner, value, levels - 1)
            elif (array := _extension(value)) is not None:
                self.nodes[inner] = array

    def _map(self, content: Any) -> _Node:
        """The entries of a map, none of which is decoded yet."""
        self._left -= _count(content)
        if self._left < 0:
            raise refused(self.path, f"a tree of more than {_MAX_ENTRIES:,} entries; save the params alone")
        return _decode_map(content)

    def _array(self, name: str, content: memoryview) -> np.ndarray:
        shape, dtype, data = _decode_array(content)
        if dtype not in (*_DTYPES, "bfloat16"):
            raise refused(self.path, f"{some([name])}: an array of dtype {some([dtype])} is no tensor")
        form = np.dtype("V2" if dtype == "bfloat16" else dtype)
        if any(n < 0 for n in shape) or prod(shape) * form.itemsize != len(data):
            raise refused(
                self.path, f"{some([name])} declares the shape {shape} of {dtype}, and has {len(data):,} bytes"
            )
        return np.frombuffer(data, form).reshape(shape)

    def _joined(self, name: str, node: _Node) -> np.ndarray:
        shape = tuple(_decode_any(n) for n in self._map(node["shape"]).values())
        pieces = [_extension(piece) for piece in self._map(node["chunks"]).values()]
        flat = np.concatenate([self._array(name, piece) for piece in pieces if piece is not None])
        return flat.reshape(shape)


def read_msgpack(path: Path) -> dict[str, Tensor]:
    """The arrays of a tree as tensors with their own memory, named as in a ``.npz`` file. Raises :class:`UserError`."""
    with path.open("rb") as file:
        require_memory(path, path.stat().st_size)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tree = _Tree(path, mapped)
    if not tree.nodes:
        raise refused(path, "msgpack without arrays of flax; name a file that flax.serialization.to_bytes wrote")
    tensors = {}
    for name in tree:
        tensors[name] = tensor_of(path, name, tree)
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # what was copied need not be in memory twice
    return tensors


def _is_map(value: Any) -> bool:
    first = memoryview(value)[0]
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)


def _count(content: Any) -> int:
    """The number of entries that a map declares."""
    head = bytes(memoryview(content)[:5])
    return int.from_bytes(head[1 : {0xDE: 3, 0xDF: 5}[head[0]]], "big") if head[0] >= 0xDE else head[0] & 0xF


def _extension(value: Any) -> memoryview | None:
    """The bytes of a value that is an array or a scalar of NumPy, not copied; else None."""
    first = memoryview(value)[0]
    if not (0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8):
        return None
    found: list[memoryview] = []

    def keep(code: int, data: memoryview) -> None:
        if code in _ARRAYS:
            found.append(data)

    msgspec.msgpack.Decoder(ext_hook=keep).decode(value)
    return found[0] if found else None
