"""What lies beside the tensors of a checkpoint and is not given to a loader: config.json, metadata, other entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...reference.errors import some
from .dcp_metadata import read_metadata
from .folders import FILES, beside_in
from .limits import MAX_CONFIG, refused, small_json
from .locating import DCP, SHARDS, Located, locate
from .numpy_values import FromNumpy
from .shards import read_index
from .torch_files import DEEPSPEED

_CONFIGS = ("config.json", "open_clip_config.json")


@dataclass(frozen=True)
class Beside:
    """What was found beside the tensors.

    ``config`` is the content of config.json, or of open_clip_config.json, empty if there is none. ``metadata`` is the text that
    safetensors files keep with their tensors, of all shards together. ``index`` is the name of the index of shards. ``notes``
    are for the user, one line each: what was read, what the file is of, and what was left out.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    index: str = ""
    notes: list[str] = field(default_factory=list)


def beside(path: Path, content: Mapping[str, Any]) -> Beside:
    """What lies beside the tensors of a checkpoint, of which ``content`` was read. Raises :class:`UserError`.

    A file has a configuration beside it only if it has a name that libraries give to a model's file.
    """
    located = locate(path)
    notes = _read_from(located)
    config: Mapping[str, Any] = {}
    try:
        config = _config(located)
    except UserError as error:
        notes.append(f"not used: {error}")
    files = _safetensors(located)
    metadata: dict[str, str] = {}
    for file in files:
        metadata |= _metadata_of(file)
    notes += _origin(content)
    notes += [content.text] if isinstance(content, FromNumpy) else []
    if located.container == DCP:
        notes += _left_out(located, content)
    return Beside(config, metadata, located.path.name if located.container.startswith(SHARDS) else "", notes)


def _read_from(located: Located) -> list[str]:
    """Which file of a folder was read, of how many shards, and which others were not."""
    notes = []
    if located.container.startswith(SHARDS):
        count = len(set((read_index(located.path) or {}).values()))
        notes.append(f"read from {located.path.name} and its {count} shard{'s' if count > 1 else ''}")
    elif located.named != located.path:
        notes.append(f"read from {located.path.name}")
    others = beside_in(located.named, located.path) if located.named != located.path else []
    return [*notes, f"not read: {some(others)}"] if others else notes


def _config(located: Located) -> Mapping[str, Any]:
    folder = located.path if located.path.is_dir() else located.path.parent
    known = located.in_folder or located.path.name in FILES or located.container.startswith(SHARDS)
    found = next((folder / name for name in _CONFIGS if known and (folder / name).exists()), None)
    return {} if found is None else small_json(found, dict[str, Any], MAX_CONFIG)


def _safetensors(located: Located) -> list[Path]:
    if located.container == "safetensors":
        return [located.path]
    if located.container == f"{SHARDS}safetensors":
        return [located.path.parent / name for name in dict.fromkeys((read_index(located.path) or {}).values())]
    return []


def _metadata_of(path: Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # the library's own; the tensors were read already
        raise refused(path, f"its metadata cannot be read ({error})") from None


def _origin(content: Mapping[str, Any]) -> list[str]:
    """Which training library saved a content, by the entries that it leaves beside the tensors."""
    version = content.get("pytorch-lightning_version")
    if version is not None and isinstance(content.get("state_dict"), Mapping):
        return [f"a checkpoint of Lightning {some([str(version)])}: its weights are the entry state_dict"]
    if content.keys() & DEEPSPEED:
        version = content.get("ds_version", "")
        return [f"a checkpoint of DeepSpeed {some([str(version)])}: its weights are the entry module"]
    return []


def _left_out(located: Located, content: Mapping[str, Any]) -> list[str]:
    """The objects of a torch.distributed.checkpoint folder that only running code would read."""
    contents = read_metadata(located.path)
    missing = [name for name in contents.objects if not _holds(content, contents.keys.get(name, (name,)))]
    return [f"not read, since only running code would read them: {some(missing)}"] if missing else []


def _holds(content: Any, keys: tuple[str | int, ...]) -> bool:
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True
