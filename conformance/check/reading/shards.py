"""Reads a checkpoint in shards: files that hold a part of the tensors each, and an index that says which.

Source: huggingface_hub ``serialization/_torch.py`` and ``constants.py``: ``model-00001-of-00002.safetensors`` beside
``model.safetensors.index.json``, whose ``weight_map`` has the shard of each tensor; ``pytorch_model-...bin`` likewise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ...reference.errors import some
from .limits import refused, small_json

INDEX = ".index.json"
_MAX_INDEX = 16 * 2**20
_SHARD = re.compile(r"(?P<stem>.+)-(\d{5})-of-(?P<total>\d{5})(?P<suffix>\.\w+)")


class Index(msgspec.Struct, frozen=True):
    """The content of an index: the file of each tensor. None for a JSON file that is no index."""

    weight_map: dict[str, str] | None = None


def read_index(path: Path) -> dict[str, str] | None:
    """The file of each tensor, or None for a JSON file that is no index. Raises :class:`UserError`.

    A shard lies beside its index: a name that leads elsewhere is refused.
    """
    files = small_json(path, Index, _MAX_INDEX).weight_map
    away = [name for name in (files or {}).values() if Path(name).name != name or name in (".", "..")]
    if away:
        raise refused(path, f"an index names files beside it, and this one names {some(away)}")
    return files


def require_whole(path: Path) -> None:
    """Raise :class:`UserError` for a file that is one shard of several; the error names the index."""
    named = _SHARD.fullmatch(path.name)
    indices = [index for index in sorted(path.parent.glob("*.index*.json")) if _lists(index, path.name)]
    total = int(named["total"]) if named else 0
    if indices:
        of = f" of {total}" if total > 1 else ""
        raise refused(path, f"one shard{of}, a part of the tensors; its index is {indices[0].name}: name {indices[0]}")
    if named and total > 1:
        index = f"{named['stem']}{named['suffix']}{INDEX}"
        raise refused(
            path,
            f"one shard of {total}, a part of the tensors, and its index {index} is not beside it: "
            "get the index and all shards into one folder, and name the folder",
        )


def kind_of_shards(index: Path, files: Mapping[str, str], kind_of: Callable[[Path], str]) -> str:
    """The container of all shards, as ``kind_of`` tells it of each. Raises :class:`UserError` if one is missing or another."""
    names = dict.fromkeys(files.values())
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise refused(index, f"get all shards into the folder of the index; missing: {some(missing)}")
    kinds = {kind_of(index.parent / name) for name in names}
    if len(kinds) > 1:
        raise refused(index, f"its shards are of several kinds: {', '.join(sorted(kinds))}")
    return kinds.pop()


def is_shard(name: str) -> bool:
    """Whether a file is named as one shard of several."""
    named = _SHARD.fullmatch(name)
    return named is not None and int(named["total"]) > 1


def _lists(index: Path, name: str) -> bool:
    """Whether an index lists a file among several. One that cannot be read is reported where it is named."""
    try:
        files = set((read_index(index) or {}).values())
    except Exception:
        return False
    return name in files and len(files) > 1


def read_shards(index: Path, kind: str, reader: Callable[[Path], Any]) -> dict[str, Any]:
    """The tensors of all shards of an index, as ``reader`` reads each. Raises :class:`UserError`.

    Tensors that the index does not list are read too, as Hugging Face's loaders do.
    """
    files = read_index(index) or {}
    content: dict[str, Any] = {}
    for name in dict.fromkeys(files.values()):
        shard = index.parent / name
        part = reader(shard)
        if not isinstance(part, Mapping):
            raise refused(shard, f"a shard of {kind} is a dict of tensors, this holds a {type(part).__name__}")
        twice = content.keys() & part.keys()
        if twice:
            named = some(sorted(map(str, twice)))
            raise refused(shard, f"it holds tensors that another shard of {index.name} holds too: {named}")
        lacking = [tensor for tensor, file in files.items() if file == name and tensor not in part]
        if lacking:
            raise refused(
                shard, f"of another save than its index: {index.name} lists tensors that it lacks, {some(lacking)}"
            )
        content |= part
    if not content:
        raise refused(index, "an index without tensors")
    return content
