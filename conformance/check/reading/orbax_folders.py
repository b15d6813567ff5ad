"""Reads an Orbax folder by tensorstore, where that is installed: a tree of arrays, in one OCDBT database or a folder each.

Source: google/orbax ``checkpoint/orbax/checkpoint/_src/metadata/tree.py`` (``_METADATA``) and ``serialization/``: an array is a
zarr array under the keys of its tree, joined by a dot.
"""

from __future__ import annotations

import importlib
from math import prod
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from ...reference.errors import some
from .limits import refused, require_held, require_memory, small_json
from .numpy_files import tensor_of

NAME = "_METADATA"
DATABASE = "manifest.ocdbt"
_MAX_METADATA = 16 * 2**20


class _Key(msgspec.Struct):
    key: str | int


class _Value(msgspec.Struct):
    value_type: str = ""
    skip_deserialize: bool = False


class _Leaf(msgspec.Struct):
    key_metadata: list[_Key]
    value_metadata: _Value


class _Metadata(msgspec.Struct):
    tree_metadata: dict[str, _Leaf]
    use_zarr3: bool = False


def read_orbax(folder: Path) -> dict[str, Tensor]:
    """The arrays of a tree as tensors, named by their keys joined by ``/``. Raises :class:`UserError`."""
    try:
        tensorstore: Any = importlib.import_module("tensorstore")
    except ImportError:
        raise refused(
            folder,
            "an Orbax checkpoint, whose arrays the library tensorstore reads: pip install tensorstore, or restore it with "
            "orbax and save its params by flax.serialization.to_bytes",
        ) from None
    metadata = small_json(folder / NAME, _Metadata, _MAX_METADATA)
    leaves = [leaf for leaf in metadata.tree_metadata.values() if _is_array(leaf.value_metadata)]
    arrays = {
        "/".join(str(k.key) for k in leaf.key_metadata): tensorstore.open(
            _spec(folder, ".".join(str(k.key) for k in leaf.key_metadata), metadata.use_zarr3), open=True, read=True
        )
        for leaf in leaves
    }
    opened = {name: array.result() for name, array in arrays.items()}
    declared = sum(prod(array.shape) * array.dtype.numpy_dtype.itemsize for array in opened.values())
    require_held(folder, declared, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))
    require_memory(folder, declared)
    return {name: tensor_of(folder, name, {name: array.read().result()}) for name, array in opened.items()}


def _is_array(value: _Value) -> bool:
    return not value.skip_deserialize and value.value_type not in ("None", "string")


def _spec(folder: Path, name: str, zarr3: bool) -> dict[str, Any]:
    """What tensorstore opens for an array. Raises :class:`UserError` for a name that leads out of the folder."""
    base = f"{folder.resolve()}/"
    if (folder / DATABASE).is_file():
        store = {"driver": "ocdbt", "base": {"driver": "file", "path": base}, "path": f"{name}/"}
    elif "/" in name or name in (".", ".."):
        raise refused(folder, f"its metadata names an array outside the folder: {some([name])}")
    else:
        store = {"driver": "file", "path": f"{base}{name}/"}
    return {"driver": "zarr3" if zarr3 else "zarr", "kvstore": store}
