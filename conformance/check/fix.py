"""Writes the reference's conversion to a file, which every timm release loads by a strict load."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError, one_line


def check_path(out: Path, checkpoint: Path) -> None:
    """Raise :class:`UserError` for an output file that cannot or should not be written, before any work is done."""
    if out.suffix != ".safetensors":
        raise UserError(f"--fix {out}: it is written as safetensors; name it OUT.safetensors")
    if not out.parent.is_dir():
        raise UserError(f"--fix {out}: there is no folder {out.parent}")
    folder = checkpoint.parent if checkpoint.suffix == ".json" else checkpoint  # of shards, whose index was named
    if folder.is_dir() and folder.resolve() in out.resolve().parents:
        raise UserError(f"--fix {out}: this is in the folder of the checkpoint; write it elsewhere")
    if out.is_dir() or (out.exists() and checkpoint.exists() and out.samefile(checkpoint)):
        raise UserError(f"--fix {out}: " + ("this is a folder" if out.is_dir() else "this is the checkpoint itself"))


def write(out: Path, state: Mapping[str, Tensor], made: Mapping[str, object]) -> None:
    """Write a state dict, completely or not at all, with ``made`` as metadata. Raises :class:`UserError`.

    A tensor on the meta device belongs to a classifier with other classes than the checkpoint's. It is initialised as timm
    does it.
    """
    owned, seen = {}, set()
    for name, tensor in state.items():
        tensor = _new_classifier(tensor) if tensor.is_meta else tensor
        storage = tensor.untyped_storage()
        alone = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen and tensor.is_contiguous()
        seen.add(storage.data_ptr())
        owned[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
    metadata = {"format": "pt", "made_by": "timm-conformance check --fix", "made_from": json.dumps(made)}
    scratch = None
    try:
        handle, scratch = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}-")
        os.close(handle)
        save_file(owned, scratch, metadata=metadata)
        os.chmod(scratch, 0o666 & ~_umask())
        os.replace(scratch, out)
    except Exception as error:
        if scratch is not None:
            Path(scratch).unlink(missing_ok=True)
        raise UserError(f"--fix {out}: {one_line(getattr(error, 'strerror', None) or error)}") from None


def _new_classifier(tensor: Tensor) -> Tensor:
    """A new classifier's weight, or its bias of zeros."""
    new = torch.zeros(tensor.shape, dtype=tensor.dtype)
    if new.ndim > 1:
        torch.nn.init.trunc_normal_(new, std=0.02, generator=torch.Generator().manual_seed(0))
    return new


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
