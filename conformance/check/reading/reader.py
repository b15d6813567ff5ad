"""Reads a located checkpoint by the reader of its container."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import UserError
from .flax_files import read_msgpack
from .limits import damaged, refused
from .locating import DCP, ORBAX, SHARDS, Located, locate
from .numpy_files import read_npz
from .orbax_folders import read_orbax
from .shards import read_shards
from .torch_files import DEEPSPEED, TO_FLOAT32, read_pth


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint as a loader is given it: a dict of CPU tensors, in wrappers as they were saved.

    ``path`` is a file, an index of shards, or a folder. ``.safetensors`` and zip-based ``.pth`` files are mapped into memory, not
    copied, as are shards of them. Arrays of a ``.npz`` file, of flax's msgpack and of Orbax become tensors under the names of
    their tree, joined by ``/``. Raises :class:`UserError`, one line, for anything that cannot be read.
    """
    return read_located(locate(path))


def read_located(located: Located) -> dict[str, Any]:
    """The content of a located checkpoint, as :func:`read` gives it. Raises :class:`UserError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _content(located)
    except UserError:
        raise
    except Exception as error:  # any exception of the library that reads the file
        raise damaged(located.path, error) from None
    if not isinstance(content, dict):
        raise refused(located.path, f"a checkpoint is a dict of tensors, this holds a {type(content).__name__}")
    if content.keys() & DEEPSPEED and not isinstance(content.get("module"), Mapping):
        raise refused(located.path, f"a part of a DeepSpeed checkpoint without its weights; {TO_FLOAT32}")
    return content


def _content(located: Located) -> Any:
    if located.container.startswith(SHARDS):
        kind = located.container.removeprefix(SHARDS)
        return read_shards(located.path, kind, _READERS[kind])
    return _READERS[located.container](located.path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _read_dcp(path: Path) -> dict[str, Any]:
    try:
        module = importlib.import_module(f"{__package__}.dcp_folders")
    except ImportError:  # some builds of torch come without torch.distributed
        raise refused(
            path, "a folder of torch.distributed.checkpoint, which this build of torch does not have"
        ) from None
    return module.read_dcp(path)


_READERS: dict[str, Callable[[Path], Any]] = {
    "safetensors": _read_safetensors,
    "pth": read_pth,
    "npz": read_npz,
    "msgpack": read_msgpack,
    DCP: _read_dcp,
    ORBAX: read_orbax,
}
