"""Checkpoints in containers of several files, and in flax's msgpack, as the libraries of their names write them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor

from timm_conformance.checkpoints.files import to_numpy


def new(folder: Path, name: str = "checkpoint") -> Path:
    """An empty folder."""
    path = folder / name
    path.mkdir()
    return path


def hugging_face(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Path:
    """A folder of one model.safetensors, with config.json beside it where there is one."""
    path = new(folder)
    save_file(dict(state), path / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def shards(folder: Path, state: Mapping[str, Tensor], kind: str = "safetensors", count: int = 3) -> Path:
    """A folder of shards with their index. Returns the index."""
    path = new(folder)
    stem, suffix = {"safetensors": ("model", "safetensors"), "pth": ("pytorch_model", "bin")}[kind]
    names, weight_map = list(state), {}
    for n in range(count):
        shard = f"{stem}-{n + 1:05}-of-{count:05}.{suffix}"
        part = {name: state[name] for name in names[n::count]}
        if kind == "safetensors":
            save_file(part, path / shard, metadata={"format": "pt", f"shard{n}": "yes"})
        else:
            torch.save(part, path / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = path / f"{stem}.{suffix}.index.json"
    total = sum(tensor.nbytes for tensor in state.values())
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return index


def distributed(folder: Path, content: dict[str, Any]) -> Path:
    """A folder of torch.distributed.checkpoint, written in one process."""
    from torch.distributed.checkpoint import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    path = folder / "checkpoint"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        save(content, storage_writer=FileSystemWriter(path, sync_files=False))
    return path


def flax(folder: Path, tree: Mapping[str, Any]) -> Path:
    """A file as flax.serialization.to_bytes writes it, of nested dicts of tensors and numbers."""
    path = folder / "checkpoint.msgpack"
    path.write_bytes(msgspec.msgpack.encode(packed(tree)))
    return path


def packed(value: Any) -> Any:
    """A tree with its tensors as extensions of msgpack."""
    if isinstance(value, Mapping):
        return {key: packed(inner) for key, inner in value.items()}
    if not isinstance(value, Tensor):
        return value
    name = str(value.dtype).removeprefix("torch.")
    return extension(tuple(value.shape), name, to_numpy(value).tobytes())


def extension(shape: Any, dtype: Any, data: bytes) -> msgspec.msgpack.Ext:
    """An array of flax, whatever it declares."""
    return msgspec.msgpack.Ext(1, msgspec.msgpack.encode((shape, dtype, data)))


def tree_of(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of names joined by ``/``."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split("/")
        level = tree
        for key in outer:
            level = level.setdefault(key, {})
        level[last] = value
    return tree
