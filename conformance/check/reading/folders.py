"""Finds the checkpoint in a folder: the file, the shards or the whole folder that holds the tensors.

What Hugging Face, timm and open_clip name a model's file comes first, in the order in which timm's ``local-dir:`` looks for it
(timm ``timm/models/_hub.py: load_state_dict_from_path``), each before its shards.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import UserError
from ...reference.errors import some
from . import dcp_metadata, orbax_folders
from .limits import refused
from .shards import INDEX, is_shard

FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "flax_model.msgpack",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz", ".msgpack", ".pkl")
_ZERO = ("*_optim_states.pt", "zero_pp_rank_*_model_states.pt")
_WHOLE = "mp_rank_*_model_states.pt"
_SCRIPT = "zero_to_fp32.py"


def checkpoint_in(folder: Path) -> Path:
    """The file that holds a folder's tensors, the index of their shards, or the folder itself.

    The folder itself is one of torch.distributed.checkpoint or of Orbax. Raises :class:`UserError`, which says what a folder
    is, if it is known and not read, or what lies in it.
    """
    try:
        return _checkpoint_in(folder)
    except OSError as error:
        raise refused(folder, error.strerror or str(error)) from None


def is_dcp(folder: Path) -> bool:
    """Whether a folder is one of torch.distributed.checkpoint."""
    return (folder / dcp_metadata.NAME).is_file()


def is_orbax(folder: Path) -> bool:
    """Whether a folder is one of Orbax: the item of a checkpoint, which has the tree."""
    return (folder / orbax_folders.NAME).is_file()


def _checkpoint_in(folder: Path) -> Path:
    found = _named(folder)
    if found:
        return found[0]
    if is_dcp(folder) or is_orbax(folder):
        return folder
    _refuse_known(folder)
    others = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES and path.is_file()]
    if others and (len(others) == 1 or all(is_shard(path.name) for path in others)):
        return others[0]
    if others:
        raise refused(folder, f"several files may be the checkpoint, name one: {some(path.name for path in others)}")
    inner = [path for path in sorted((*folder.glob("*/"), *folder.glob("*/*/"))) if path.is_dir() and _is_known(path)]
    if inner:
        names = some(f"{path.relative_to(folder)}" for path in inner)
        raise refused(folder, f"no checkpoint lies in this folder itself, but in folders of it; name one: {names}")
    raise refused(folder, "this is a folder without a checkpoint; name the file or the folder that holds the tensors")


def _named(folder: Path) -> list[Path]:
    """Files and indices under the names that libraries give them; other indices last."""
    ordered = [folder / name for file in FILES for name in (file, file + INDEX)]
    found = [path for path in ordered if path.exists()]
    return found or sorted(folder.glob(f"*{INDEX}"))[:1]


def _is_known(folder: Path) -> bool:
    return bool(_named(folder)) or is_dcp(folder) or is_orbax(folder)


def _refuse_known(folder: Path) -> None:
    """Raise :class:`UserError` for a folder of DeepSpeed's ZeRO, and for parts whose description is missing."""
    parts = [path for pattern in _ZERO for depth in ("", "*/") for path in folder.glob(depth + pattern)]
    if parts:
        whole = sorted((*folder.glob(_WHOLE), *folder.glob(f"*/{_WHOLE}")))
        script = (folder / _SCRIPT).is_file()
        run = (
            f"run `python {_SCRIPT} . OUT` in it"
            if script
            else f"run `python -m deepspeed.utils.zero_to_fp32 {folder} OUT`"
        )
        also = f", or name {whole[0].relative_to(folder)} for those in training precision" if len(whole) == 1 else ""
        raise refused(
            folder,
            f"a folder of DeepSpeed with its state in parts (ZeRO); for the float32 weights, {run} and name what it writes{also}",
        )
    if any(folder.glob("*.distcp")):
        raise refused(
            folder,
            f"parts of torch.distributed.checkpoint without their {dcp_metadata.NAME}: get the folder again, whole",
        )
    if (folder / orbax_folders.DATABASE).is_file():
        raise refused(folder, f"an Orbax database without its {orbax_folders.NAME}: get the folder again, whole")


def beside_in(folder: Path, read: Path) -> list[str]:
    """Other files of the folder under names that libraries give a model's file, which are not read."""
    try:
        return [path.name for path in _named(folder) if path != read]
    except (OSError, UserError):
        return []
