"""Checkpoints as files: ``.safetensors``, ``.pth`` and ``.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cases.case import Case
from .state_dicts import StateDict
from .wrappers import as_saved, wrap


def write(state: StateDict, wrapper: str, container: str, folder: Path) -> Path:
    """Save a checkpoint to ``folder`` and return its path. A safetensors file holds tensors only, so it has no wrapper."""
    wrapped = state if container == "safetensors" else wrap(state, wrapper)
    return _write(wrapped, container, folder)


def write_case(state: StateDict, case: Case, folder: Path) -> Path:
    """Save a checkpoint to ``folder`` as the file of ``case``, and return its path."""
    if not case.saved:
        return write(state, case.wrapper, case.container, folder)
    return _write(as_saved(state, case.saved_entry, case.saved_prefix), case.container, folder)


def _write(checkpoint: dict[str, Any], container: str, folder: Path) -> Path:
    path = folder / f"checkpoint.{container}"
    if container == "safetensors":
        from safetensors.torch import save_file

        save_file(checkpoint, path)
    elif container == "npz":
        arrays: dict[str, Any] = {k: to_numpy(v) for k, v in checkpoint.items()}
        np.savez(path, **arrays)
    else:
        torch.save(checkpoint, path)
    return path


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor of any device as a NumPy array. bfloat16 becomes raw two-byte items (``|V2``)."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view("V2")
    return tensor.numpy()


def read(path: Path) -> dict[str, Any]:
    """Load a file that :func:`write` made. A ``.npz`` file gives arrays, others give tensors."""
    if path.suffix == ".npz":
        with np.load(path) as tree:
            return dict(tree)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
