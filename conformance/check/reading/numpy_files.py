"""Reads ``.npz`` files: Flax trees, whose arrays become tensors under their names."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from ...errors import UserError, one_line
from ...reference import LoadError, flax
from ...reference.errors import some
from .archives import archive_at
from .limits import refused, require_held, require_memory


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of a ``.npz`` file as tensors with their own memory. Raises :class:`UserError`."""
    with archive_at(path) as archive:
        members = [(m, _declared_bytes(archive, m, path)) for m in archive.infolist()]
    declared = sum(max(size, member.file_size) for member, size in members)
    require_held(path, declared, path.stat().st_size)
    require_memory(path, declared)
    with np.load(path, allow_pickle=False) as tree:
        return {name: tensor_of(path, name, tree) for name in tree}


def tensor_of(path: Path, name: str, tree: Mapping[str, np.ndarray]) -> Tensor:
    """An array of a tree as a tensor. Raises :class:`UserError`, which names it."""
    try:
        return flax.tensor(tree[name])
    except LoadError as error:
        raise refused(path, f"{some([name])}: {error}") from None


def _declared_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> int:
    """The size of an array in bytes, from its header. Raises :class:`UserError` if it is no array of numbers."""
    where = f"checkpoint {path}: {some([member.filename])}"
    with archive.open(member) as file:
        shape, dtype = _npy_header(file, where)
    if dtype.hasobject:
        raise UserError(f"{where} holds pickled objects, which are not read; save arrays of numbers")
    if any(n < 0 for n in shape):
        raise UserError(f"{where} declares the impossible shape {shape}")
    return prod(shape) * dtype.itemsize


def _npy_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = readers[version](file)
    except Exception as error:  # a header is a Python literal: it can fail in any way
        raise UserError(f"{where} is no array of NumPy, or damaged ({one_line(error)})") from None
    return shape, dtype
