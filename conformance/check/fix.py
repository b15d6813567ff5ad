"""The reference's conversion as a file that every timm release loads by a strict load."""

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
    """Refuse a file that cannot be written or should not be, before any work is done. Raises :class:`UserError`."""
    if out.suffix != ".safetensors":
        raise UserError(f"--fix {out}: it is written as safetensors; name it OUT.safetensors")
    if not out.parent.is_dir():
        raise UserError(f"--fix {out}: there is no folder {out.parent}")
    if out.is_dir() or (out.exists() and checkpoint.exists() and out.samefile(checkpoint)):
        raise UserError(f"--fix {out}: " + ("this is a folder" if out.is_dir() else "this is the checkpoint itself"))


def write(out: Path, state: Mapping[str, Tensor], made: Mapping[str, object]) -> None:
    """Write a state dict whole or not at all, with what ``made`` it as metadata. Raises :class:`UserError`.

    A tensor on the meta device is a classifier of other classes than the checkpoint's: it is drawn new, as timm draws one.
    """
    owned, seen = {}, set()
    for name, tensor in state.items():
        tensor = _drawn(tensor) if tensor.is_meta else tensor
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


def _drawn(tensor: Tensor) -> Tensor:
    """A new classifier's weight, or its bias of zeros."""
    new = torch.zeros(tensor.shape, dtype=tensor.dtype)
    if new.ndim > 1:
        torch.nn.init.trunc_normal_(new, std=0.02, generator=torch.Generator().manual_seed(0))
    return new


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
