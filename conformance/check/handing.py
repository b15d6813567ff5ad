"""How timm is given a checkpoint: the file itself, the folder as ``local-dir:``, or one file that holds what was read.

timm reads a file, and from 1.0.16 on a folder with its own config.json. No release reads shards, a folder of
torch.distributed.checkpoint or of Orbax, or flax's msgpack. A user makes one file of those, and so does this module: a ``.npz``
of a Flax tree, a ``.pth`` in the wrappers that were saved, or a ``.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packaging.version import Version
from torch import Tensor

from ..checkpoints import files
from ..families.base import PIXELS
from ..reference.errors import some
from ..targets.scratch import scratch_folder
from .reading import SHARDS, Located
from .reading.folders import FILES
from .reading.locating import DCP

LOCAL_DIR = Version("1.0.16")
_PARAMS, _VIT_JAX = "params/", "Transformer/posembed_input/pos_embedding"
_SCALARS = (int, float, str, bool)


@contextmanager
def one_file(located: Located, read: Callable[[], Mapping[str, Any]]) -> Iterator[Path]:
    """A file with a checkpoint's tensors that timm reads. It is removed after the load, if it had to be written."""
    if located.is_file and located.container == located.file_kind:
        yield located.path
        return
    with scratch_folder() as folder:
        yield _written(located.file_kind, read, Path(folder))


def _written(kind: str, read: Callable[[], Mapping[str, Any]], folder: Path) -> Path:
    """A new file of what is read, which is in memory no longer than that."""
    content = _named_for_timm(read()) if kind == "npz" else _only_tensors(read())
    return files.write(content, "bare", kind, folder)


def _named_for_timm(tree: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The params of a Flax tree under the names of a published ``.npz`` file.

    timm reads names below ``params/`` as those of big_vision, and names of vit_jax without it
    (``timm/models/vision_transformer.py: _load_weights``).
    """
    params = {name: array for name, array in tree.items() if name.startswith(_PARAMS)} or dict(tree)
    if _PARAMS + _VIT_JAX in params:
        return {name.removeprefix(_PARAMS): array for name, array in params.items()}
    return params


def unread_container(located: Located) -> str:
    """That timm does not read a container, without its subject; empty for one that it reads."""
    if located.is_file and located.container == located.file_kind:
        return ""
    first = ": its local-dir: takes the first shard alone" if located.container.startswith(SHARDS) else ""
    return f"does not read {located.container}{first}"


def said_of_file(located: Located, why_not_folder: str) -> str:
    """What the target was given in place of a folder, or of a file that timm does not read. Empty for a file as it is."""
    if unread_container(located):
        return f"one .{located.file_kind} file of its tensors"
    return f"{located.path.name} alone, since {why_not_folder}" if located.in_folder else ""


def lines_to_read(located: Located, entry: Sequence[str]) -> list[str]:
    """Python lines after which ``content`` has the tensors that a container holds under an entry; none where no few lines do.

    Names in a torch.distributed.checkpoint begin with their entry. Its other objects are not read.
    """
    path = text(str(located.path))
    if located.container.startswith(SHARDS):
        load = "safetensors.torch.load_file(index.parent / s)"
        if located.container != f"{SHARDS}safetensors":
            load = 'torch.load(index.parent / s, map_location="cpu", weights_only=True)'
        return [
            f"index = pathlib.Path({path})",
            'shards = set(json.loads(index.read_text())["weight_map"].values())',
            f"content = {{k: v for s in shards for k, v in {load}.items()}}",
        ]
    if located.container != DCP:
        return []
    lines = [
        f"reader = torch.distributed.checkpoint.FileSystemReader({path})",
        "metadata = reader.read_metadata().state_dict_metadata",
        'content = {k: torch.empty(m.size, dtype=m.properties.dtype) for k, m in metadata.items() if hasattr(m, "size")}',
        "torch.distributed.checkpoint.load(content, storage_reader=reader)",
    ]
    if entry:
        under = text(".".join([*entry, ""]))
        lines.append(f"content = {{k.removeprefix({under}): v for k, v in content.items() if k.startswith({under})}}")
    return lines


def text(value: str) -> str:
    """A string as Python code, in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def not_as_folder(
    located: Located,
    config: Mapping[str, Any],
    release: Version | None,
    model: Any,
    name: str,
    arguments: Mapping[str, Any],
    counts: tuple[int, int],
) -> str:
    """Why ``create_model("local-dir:FOLDER", **arguments)`` is not the load that is asked for; empty if it is.

    timm builds the model that config.json describes, with the arguments that it was saved with. So the folder is given to it
    only where that is the model ``name``, of which ``model`` is a new one. ``counts`` are the checkpoint's numbers of classes and
    channels.
    """
    cfg = config.get("pretrained_cfg", config)
    cfg = cfg if isinstance(cfg, Mapping) else {}
    if release is None or release < LOCAL_DIR:
        return f"timm {release} has no local-dir:"
    if located.path.name not in FILES:
        return "timm looks for other names in a folder first"
    architecture = config.get("architecture", cfg.get("architecture"))
    if not config or architecture is None:
        return "config.json names no architecture of timm" if config else "it has no config.json"
    if architecture != name.partition(".")[0]:
        return f"config.json describes {some([str(architecture)])}"
    others = _options_beside(config.get("model_args"), model, arguments)
    if others:
        return f"config.json builds the model with {some(others)}, which was not asked for"
    usual = tuple(model.pretrained_cfg["input_size"])
    size = _three_numbers(cfg.get("input_size")) or usual
    if "img_size" not in arguments and size[1:] != usual[1:]:
        return f"config.json declares images of {size[1]}x{size[2]}, and {name} has {usual[1]}x{usual[2]}"
    classes = config.get("num_classes", cfg.get("num_classes", counts[0]))
    if (classes, size[0]) != counts:
        return f"config.json has {some([str(classes)])} classes and {size[0]} channels, the tensors {counts[0]} and {counts[1]}"
    pool = cfg.get("global_pool")
    if pool is not None and pool != getattr(model, "global_pool", pool):
        return f"config.json pools by {some([str(pool)])}, and {name} does not"
    return ""


def _options_beside(saved: Any, model: Any, arguments: Mapping[str, Any]) -> list[str]:
    """The arguments in a configuration that make another model than ``arguments`` do, which come before them."""
    channels, *size = model.pretrained_cfg["input_size"]
    own = {"num_classes": model.num_classes, "in_chans": channels, "img_size": size}
    own |= {"global_pool": getattr(model, "global_pool", None)}
    own |= {"patch_size": getattr(getattr(model, "patch_embed", None), "patch_size", None)}
    given = {k: v for k, v in (saved if isinstance(saved, Mapping) else {}).items() if v is not None}
    return [f"{k}={v}" for k, v in given.items() if k not in arguments and _pair(k, v) != _pair(k, own.get(k))]


def _pair(name: str, value: Any) -> Any:
    """A size as height and width; another value as it is."""
    if name in PIXELS and isinstance(value, int):
        return [value, value]
    return list(value) if isinstance(value, (list, tuple)) else value


def _three_numbers(size: Any) -> tuple[int, ...] | None:
    """Channels, height and width of a configuration, or None."""
    whole = isinstance(size, (list, tuple)) and len(size) == 3 and all(isinstance(n, int) for n in size)
    return tuple(size) if whole else None


def _only_tensors(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """A content without what timm's reader, which runs no code, may refuse: arguments and other objects."""
    kept: dict[Any, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            kept[key] = _only_tensors(value)
        elif value is None or isinstance(value, (Tensor, *_SCALARS)):
            kept[key] = value
    return kept
