"""Reads a torch.distributed.checkpoint folder by that package, in one process and without a process group.

Its planner and its metadata classes are torch's; how the files are opened is not. The metadata comes from
:mod:`.dcp_metadata`, which unpickles nothing, and each chunk is read by ``torch.load(weights_only=True)``. Objects that are no
tensors are read in the same way, never by torch's planner, which would unpickle them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.futures import Future

from ...errors import UserError
from ...reference.errors import some
from .archives import ZIP, archive_at, require_torch_archive
from .dcp_metadata import Contents, Declared, Place, read_metadata
from .limits import damaged, refused
from .torch_files import weights_only

# Objects of a training script: its arguments and counters. Larger ones, or more, are not read.
_MAX_OBJECTS = 2**22


def read_dcp(folder: Path) -> dict[str, Any]:
    """The tensors of a folder in nested dicts as they were saved, with the objects that can be read without running code.

    A list becomes a dict of its positions. Raises :class:`UserError`.
    """
    contents = read_metadata(folder)
    flat: dict[str, Any] = {
        name: torch.empty(tensor.size, dtype=tensor.dtype, device="cpu") for name, tensor in contents.tensors.items()
    }
    reader = _Reader(folder, contents)
    try:
        load(flat, storage_reader=reader, planner=DefaultLoadPlanner(flatten_state_dict=False))
    except CheckpointException as error:  # no Exception to Python; torch wraps in it whatever happens on a rank
        raise reader.refusal or damaged(folder, *(failure for failure, _ in error.failures.values())) from None
    return _nested(folder, contents, flat | _objects(contents))


class _Reader(FileSystemReader):
    """Reads chunks as weights alone, after their sizes were checked. ``refusal`` is the error that ended the reading."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        super().__init__(folder)
        self.contents = contents
        self.refusal: UserError | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata(
            {name: _declared(tensor) for name, tensor in self.contents.tensors.items()},
            storage_data={MetadataIndex(name, at): place for (name, at), place in self.contents.places.items()},
        )

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        try:
            for item in plan.items:
                index = item.storage_index
                chunk = self._chunk(index.fqn, tuple(index.offset or ()))
                for dim, (start, length) in enumerate(zip(item.storage_offsets, item.lengths)):
                    chunk = chunk.narrow(dim, start, length)
                target = planner.resolve_tensor(item).detach()
                target.copy_(chunk)
                planner.commit_tensor(item, target)
        except UserError as error:
            self.refusal = error
            raise
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _chunk(self, name: str, offsets: tuple[int, ...]) -> Tensor:
        """The tensor of a chunk. Raises :class:`UserError` if it is not what the metadata declares."""
        declared = self.contents.tensors[name]
        place = self.contents.places[name, offsets]
        tensor = _loaded(place)
        sizes = dict(declared.chunks)[offsets]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            raise refused(place.file, f"a chunk of {some([name])} is no dense tensor")
        if tuple(tensor.shape) != sizes or tensor.dtype != declared.dtype or tensor.is_meta:
            raise refused(
                place.file,
                f"a chunk of {some([name])} is {tuple(tensor.shape)} of {tensor.dtype}, declared as {sizes} of {declared.dtype}",
            )
        return tensor


def _declared(tensor: Declared) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in tensor.chunks]
    return TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), torch.Size(tensor.size), chunks)


def _loaded(place: Place) -> Any:
    """What ``torch.save`` wrote to a place. Raises :class:`UserError`."""
    with place.file.open("rb") as file:
        part = _Part(file, place)
        if not part.read(4).startswith(ZIP):
            raise refused(place.file, f"the part at byte {place.offset:,} was not written by torch.save")
        part.seek(0)
        with archive_at(place.file, part) as archive:
            require_torch_archive(archive, place.file)
        part.seek(0)
        return weights_only(place.file, part)


class _Part(io.RawIOBase, IO[bytes]):
    """A part of an open file as a file of its own, which is not copied into memory."""

    def __init__(self, file: IO[bytes], place: Place) -> None:
        self._file, self._place, self._at = file, place, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._place.length}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer).cast("B")
        left = max(self._place.length - self._at, 0)
        self._file.seek(self._place.offset + self._at)
        content = self._file.read(min(len(wanted), left))
        wanted[: len(content)] = content
        self._at += len(content)
        return len(content)


def _objects(contents: Contents) -> dict[str, Any]:
    """The objects that weights_only admits, such as numbers, dicts and arguments."""
    found: dict[str, Any] = {}
    left = _MAX_OBJECTS
    for name in contents.objects:
        place = contents.places.get((name, None))
        left -= place.length if place else 0
        if place is None or left < 0:
            continue
        try:
            found[name] = _loaded(place)
        except UserError:  # the tensors do not need it
            continue
    return found


def _nested(folder: Path, contents: Contents, flat: dict[str, Any]) -> dict[str, Any]:
    content: dict[Any, Any] = {}
    for name, value in flat.items():
        *outer, last = contents.keys.get(name, (name,))
        level: Any = content
        for key in outer:
            level = level.setdefault(key, {}) if isinstance(level, dict) else None
        if not isinstance(level, dict) or last in level:
            raise refused(folder, f"its metadata puts two entries at the place of {some([name])}")
        level[last] = value
    return content
