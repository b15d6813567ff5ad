"""Reads a checkpoint file into a dict of tensors. No file can run code, fill the memory, or cause a traceback.

The sizes that a file declares are compared with its bytes before anything is decompressed or allocated. Every error of the
libraries that read the containers becomes one :class:`UserError`. :mod:`timm_conformance.check.sanity` looks at the tensors
afterwards.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, one_line
from ..reference import LoadError, flax
from ..reference.errors import some

# A .npz file is a zip archive. So is a .pth file, or, if written before torch 1.6, a series of pickles that begins with a number.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLE = b"\x80"
_TORCH_PICKLE = bytes.fromhex("6cfc9c46f9206aa85019")
# Files that are no checkpoints, by their first bytes in lower case: what they are, and what to do.
_OTHERS = {
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file it points to with git lfs pull"),
    b"<!doctype": ("an HTML page", "download the file itself"),
    b"<html": ("an HTML page", "download the file itself"),
    b"<?xml": ("an XML page", "download the file itself"),
    b"{": ("a JSON file", "an index of shards or a configuration; name the file that holds the tensors"),
    b"\x93numpy": ("a single array of NumPy", "name a .npz file with all of them"),
    b"\x89hdf": ("an HDF5 file", "convert it to .safetensors"),
    b"gguf": ("a GGUF file", "convert it to .safetensors"),
    b"\x1f\x8b": ("compressed with gzip", "unpack it"),
    b"\xfd7zxz": ("compressed with xz", "unpack it"),
    b"(\xb5/\xfd": ("compressed with zstd", "unpack it"),
}
# Trained weights hardly compress. A file that declares more than this many times its size, and more than _FREE_BYTES, is
# refused as a decompression bomb.
_MAX_INFLATION = 20
_FREE_BYTES = 256 * 2**20
_SAVE_AGAIN = "if you trust its origin, load it yourself and torch.save the state_dict alone"


def container_of(path: Path) -> str:
    """The container of a checkpoint file, by its content: ``safetensors``, ``pth`` or ``npz``.

    Raises :class:`UserError` for a file that cannot be read or is none of these.
    """
    start = _start(path)
    if start.startswith(_ZIP):
        with _archive(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
            return "pth"
        if any(name.endswith(".npy") for name in names):
            return "npz"
        raise UserError(f"checkpoint {path}: a zip archive without tensors; unpack it and name the checkpoint inside")
    if start[8:9] == b"{" and b"\0" in start[:8]:  # the header's length, then the header
        return "safetensors"
    if start.startswith(_PICKLE):
        if _TORCH_PICKLE in start:
            return "pth"
        raise UserError(
            f"checkpoint {path}: a pickle that torch.save did not write, which only running its code would read; "
            f"{_SAVE_AGAIN}"
        )
    for magic, (what, remedy) in _OTHERS.items():
        if start.lower().lstrip().startswith(magic):
            raise UserError(f"checkpoint {path}: this is {what}, not a checkpoint; {remedy}")
    raise UserError(
        f"checkpoint {path}: neither a .safetensors file nor one of torch.save or numpy.savez; is it whole?"
    )


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file as a loader is given it: a dict of CPU tensors, in wrappers as they were saved.

    ``.safetensors`` and zip-based ``.pth`` files are mapped into memory, not copied. Arrays of a ``.npz`` file become
    tensors under the names of their Flax tree. Raises :class:`UserError`, one line, for anything that cannot be read.
    """
    container = container_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _READERS[container](path)
    except UserError:
        raise
    except Exception as error:  # any exception of the library that reads the file
        raise _damaged(path, error) from None
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path}: a checkpoint is a dict of tensors, this holds a {type(content).__name__}")
    return content


def _start(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"checkpoint {path}: this is a folder; name the file in it")
        if path.exists() and not path.is_file():
            raise UserError(f"checkpoint {path}: this is no regular file")
        with path.open("rb") as file:
            start = file.read(64)
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {path}: {getattr(error, 'strerror', None) or error}") from None
    if not start:
        raise UserError(f"checkpoint {path}: the file is empty")
    return start


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many types for a damaged directory
        raise _damaged(path, error) from None


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"checkpoint {path}: damaged or cut off, get it again ({one_line(reason)})")


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _npz(path: Path) -> dict[str, Tensor]:
    with _archive(path) as archive:
        members = [(m, _declared_bytes(archive, m, path)) for m in archive.infolist()]
    declared = sum(max(size, member.file_size) for member, size in members)
    _check_inflation(path, declared, path.stat().st_size)
    if declared > _memory():
        raise UserError(f"checkpoint {path}: its arrays take {declared:,} bytes, more than this machine's memory")
    with np.load(path, allow_pickle=False) as tree:
        return {name: _tensor(tree, name, path) for name in tree}


def _tensor(tree: Mapping[str, np.ndarray], name: str, path: Path) -> Tensor:
    try:
        return flax.tensor(tree[name])
    except LoadError as error:
        raise UserError(f"checkpoint {path}: {some([name])}: {error}") from None


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


def _pth(path: Path) -> Any:
    mapped = _start(path).startswith(_ZIP)
    if mapped:
        with _archive(path) as archive:
            _torch_archive(archive, path)
    try:
        # weights_only admits tensors and dicts. Training scripts also store their arguments in a Namespace, a class without code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many types for a file that it cannot read
        wanted = re.search(r"GLOBAL `?([\w.]+)", str(error))
        if wanted:
            raise UserError(
                f"checkpoint {path}: it holds a {wanted[1]}, which only running its code would read; {_SAVE_AGAIN}"
            ) from None
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n\n")[0]
        raise _damaged(path, reason) from None
    found = [t for t in _tensors(content) if not t.is_meta]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in found)}
    held = min(sum(storages.values()), path.stat().st_size)
    _check_inflation(path, max(sum(storages.values()), sum(t.nbytes for t in found)), held)
    return content


def _torch_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise :class:`UserError` for an archive that ``torch.load`` would misread, or whose bytes do not fit their checksums."""
    members = archive.infolist()
    if any(m.filename.endswith("/constants.pkl") for m in members):
        raise UserError(
            f"checkpoint {path}: a TorchScript archive, a program and not only its tensors; if you trust its origin, "
            "torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
        )
    if any(
        m.compress_type != zipfile.ZIP_STORED for m in members
    ):  # memory-mapped, the compressed bytes would be read as tensors
        raise UserError(f"checkpoint {path}: packed again with compression; torch.save stores tensors as they are")
    # torch.save can leave all checksums zero (torch.serialization.set_crc32_options).
    damaged = archive.testzip() if any(m.CRC for m in members) else None
    if damaged:
        raise UserError(f"checkpoint {path}: {some([damaged])} in it is damaged (wrong checksum), get the file again")


def _tensors(content: Any) -> Iterator[Tensor]:
    """Every dense tensor in nested dicts, lists and tuples. Each container is visited once, even if it is held several times.

    A pickle can give a tensor or a dict attributes that hide its methods. They are removed.
    """
    seen, stack = set(), [content]
    while stack:
        entry = stack.pop()
        if id(entry) in seen or not isinstance(entry, (Tensor, dict, list, tuple)):
            continue
        seen.add(id(entry))
        for name in [n for n in getattr(entry, "__dict__", ()) if hasattr(type(entry), n)]:
            del entry.__dict__[name]
        if isinstance(entry, Tensor):
            if entry.layout == torch.strided and not entry.is_nested:
                yield entry
        else:
            stack.extend(entry.values() if isinstance(entry, dict) else entry)


def _check_inflation(path: Path, declared: int, held: int) -> None:
    """Raise :class:`UserError` if tensors declare far more bytes than the file holds for them."""
    if declared > max(_FREE_BYTES, _MAX_INFLATION * held):
        raise UserError(
            f"checkpoint {path}: its tensors declare {declared:,} bytes, the file has {held:,} for them: not read"
        )


def _memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


_READERS = {"safetensors": _safetensors, "pth": _pth, "npz": _npz}
