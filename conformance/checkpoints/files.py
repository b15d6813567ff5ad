"""Checkpoints as files: ``.safetensors``, ``.pth`` and ``.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .state_dicts import StateDict
from .wrappers import wrap


def write(state: StateDict, wrapper: str, container: str, folder: Path) -> Path:
    """Save a checkpoint to ``folder`` and return its path. A safetensors file holds tensors only, so it has no wrapper."""
    path = folder / f"checkpoint.{container}"
    if container == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif container == "npz":
        arrays: dict[str, Any] = {k: to_numpy(v) for k, v in wrap(state, wrapper).items()}
        np.savez(path, **arrays)
    else:
        torch.save(wrap(state, wrapper), path)
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
