"""Reads what ``torch.save`` wrote, whatever its suffix. Nothing that is pickled in it is run."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import torch
from torch import Tensor

from .archives import ZIP, archive_at, require_torch_archive
from .limits import damaged, refused, require_held, runs_code, start_of
from .numpy_values import stand_ins, with_tensors

# Entries that DeepSpeed leaves in each of its files, and what to do with those that hold a part of the weights.
DEEPSPEED = {"ds_config", "ds_version"}
# What stands in the state of every pickled module, and how far into a file it is looked for.
_OF_MODULES = (b"_parameters", b"_buffers", b"_modules")
_SEARCHED = 64 * 2**20
TO_FLOAT32 = "run the zero_to_fp32.py that DeepSpeed left in its folder, and name what it writes"


def read_pth(path: Path) -> Any:
    """The content of a ``.pth`` file. A zip archive is mapped into memory, not copied. Raises :class:`UserError`."""
    mapped = start_of(path).startswith(ZIP)
    if mapped:
        with archive_at(path) as archive:
            require_torch_archive(archive, path)
    with _named_otherwise(path) as named:
        content = weights_only(path, named, mmap=mapped)
    found = [t for t in _tensors(content) if not t.is_meta]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in found)}
    held = min(sum(storages.values()), path.stat().st_size)
    require_held(path, max(sum(storages.values()), sum(t.nbytes for t in found)), held)
    return content


@contextmanager
def _named_otherwise(path: Path) -> Iterator[Path]:
    """The file under a name that torch.load does not take for one of safetensors. torch 2.13 goes by the name."""
    if path.suffix != ".safetensors":
        yield path
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoint.pth"
        link.symlink_to(path.resolve())
        yield link


def weights_only(path: Path, source: Path | IO[bytes], **options: Any) -> Any:
    """What ``torch.load`` reads without running code, with tensors in place of arrays of numpy (:mod:`.numpy_values`).

    ``path`` is named in errors. Raises :class:`UserError`.
    """
    try:
        # weights_only admits tensors and dicts. Training scripts also store their arguments in a Namespace, a class without code.
        with torch.serialization.safe_globals([argparse.Namespace, *stand_ins()]):
            content = torch.load(source, map_location="cpu", weights_only=True, **options)
    except Exception as error:  # torch raises many types for a file that it cannot read
        wanted = re.search(r"GLOBAL `?([\w.]+)", str(error))
        if wanted and wanted[1].startswith("deepspeed."):
            raise refused(
                path,
                f"it holds a {wanted[1]}, which only running its code would read: a part of a DeepSpeed checkpoint; "
                f"{TO_FLOAT32}",
            ) from None
        if wanted and isinstance(source, Path) and _is_module(path):
            raise refused(
                path,
                f"it holds a {wanted[1]}, which only running its code would read: a whole module was pickled; if you trust its "
                "origin, load it with weights_only=False where its code is installed, and torch.save(MODULE.state_dict(), OTHER)",
            ) from None
        if wanted:
            raise runs_code(path, wanted[1]) from None
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n\n")[0]
        raise damaged(path, reason) from None
    try:
        return with_tensors(content, path)
    except RecursionError:  # tuples within tuples
        raise refused(path, "it holds tuples nested too deeply for a checkpoint") from None


def _is_module(path: Path) -> bool:
    """Whether a file of torch.save has the state of a pickled module in its pickle."""
    if start_of(path).startswith(ZIP):
        with archive_at(path) as archive:
            pickled = next((m for m in archive.infolist() if m.filename.endswith("/data.pkl")), None)
            found = b"" if pickled is None or pickled.file_size > _SEARCHED else archive.read(pickled)
    else:
        with path.open("rb") as file:
            found = file.read(_SEARCHED)
    return all(name in found for name in _OF_MODULES)


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
