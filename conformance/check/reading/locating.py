"""Finds where the tensors of a checkpoint lie, and in which container, from the path that a user gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .folders import checkpoint_in, is_dcp
from .kinds import kind_of
from .limits import start_of
from .shards import kind_of_shards, read_index, require_whole

FILES = ("safetensors", "pth", "npz", "msgpack")
SHARDS = "shards of "
DCP = "torch.distributed.checkpoint"
ORBAX = "orbax"
# The suffix that loaders know a container by. What has neither is torch.save's to them.
_SUFFIXES = {"safetensors": ".safetensors", "npz": ".npz", "pth": ".pth"}
_WRITTEN_BY = {"safetensors": "safetensors", "npz": "numpy.savez", "pth": "torch.save"}


@dataclass(frozen=True)
class Located:
    """A checkpoint: the path that the user ``named``, and the file, index or folder at ``path`` that is read.

    ``container`` is ``safetensors``, ``pth``, ``npz`` or ``msgpack``, ``shards of safetensors`` or ``shards of pth``,
    ``torch.distributed.checkpoint`` or ``orbax``.
    """

    named: Path
    path: Path
    container: str

    @property
    def is_file(self) -> bool:
        """Whether one file holds the tensors, in a folder or by itself."""
        return self.container in FILES

    @property
    def in_folder(self) -> bool:
        """Whether the user named a folder."""
        return self.named != self.path or self.container in (DCP, ORBAX)

    @property
    def file_kind(self) -> str:
        """The kind of a single file with these tensors: ``safetensors``, ``pth``, or ``npz`` for Flax trees."""
        trees = dict.fromkeys((ORBAX, "msgpack"), "npz")
        return trees.get(self.container, "pth" if self.container == DCP else self.container.removeprefix(SHARDS))

    @property
    def misnamed(self) -> str:
        """That a file's name tells another container than its content, in one line; empty if it does not."""
        own, suffix = _SUFFIXES.get(self.container), self.path.suffix
        if own is None or suffix == own or (own == ".pth" and suffix != ".safetensors"):
            return ""
        readers = "timm and torch.load" if suffix == ".safetensors" else "timm"  # torch.load goes by this one suffix
        return (
            f"{_WRITTEN_BY[self.container]} wrote it, and its name tells {readers} something else: "
            f"rename it to {self.path.with_suffix(own).name}"
        )


def container_of(path: Path) -> str:
    """The container of a checkpoint, by its content: see :class:`Located`. Raises :class:`UserError`."""
    return locate(path).container


def locate(path: Path) -> Located:
    """The checkpoint that a user names: a file, an index of shards, or a folder.

    Raises :class:`UserError` for what cannot be read, holds no tensors, or is one shard of several.
    """
    found = checkpoint_in(path) if _is_folder(path) else path
    if found == path and _is_folder(found):
        return Located(path, found, DCP if is_dcp(found) else ORBAX)
    if start_of(found).lstrip().startswith(b"{") and found.suffix == ".json":
        files = read_index(found)
        if files:
            return Located(path, found, SHARDS + kind_of_shards(found, files, kind_of))
    require_whole(found)
    return Located(path, found, kind_of(found))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
