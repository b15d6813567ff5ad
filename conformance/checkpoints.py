"""From a case to a checkpoint: the timm-layout truth, the upstream tensors, the wrapped dict, the file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference import FORMATS, Facts

from .cases import Case, Contents
from .families import Family
from .families.base import Shapes

StateDict = dict[str, Tensor]


def fill(shapes: Shapes, contents: Contents, dtype: torch.dtype) -> StateDict:
    """Tensors of the given shapes, made by a recipe; the same for the same recipe on every machine.

    Small integers are exact in every dtype, so permutations and renames can be compared bit for bit; a one-hot tensor
    shrinks a mistake to the culprit cell; seeded normals are what real weights look like.
    """
    generator = torch.Generator().manual_seed(contents.seed)
    total = sum(prod(shape) for shape in shapes.values())
    if contents.kind == "integers":
        values = torch.randint(-4, 5, (total,), generator=generator).float()
    elif contents.kind == "ramp":
        values = (torch.arange(total) + contents.seed).remainder(64).float() / 16 - 2
    else:
        values = torch.randn(total, generator=generator) * 0.4
    out, start = {}, 0
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            out[name] = torch.tensor(7)
            continue
        size = prod(shape)
        tensor = values[start : start + size].reshape(shape).clone()
        if contents.kind == "constant":
            tensor.fill_(float(values[start].round(decimals=2)))
        elif contents.kind == "one-hot":
            tensor.zero_().view(-1)[contents.seed % size] = 1.0
        if name.endswith("running_var"):
            tensor = tensor.abs() + 0.5
        out[name] = tensor.to(dtype)
        start += size
    return out


def truth(family: Family, case: Case, contents: Contents | None = None) -> StateDict:
    """The checkpoint in timm's layout at its own geometry: what a native load must give back bit for bit.

    ``contents`` makes other values than the case's in the same structure.
    """
    state = fill(family.shapes(case.arch, case.source), contents or case.contents, getattr(torch, case.dtype))
    for name in family.implied(case.arch):
        state[name].zero_()
    return state


def encode(family: Family, case: Case, state: Mapping[str, Tensor]) -> StateDict:
    """``state`` in the upstream layout; every tensor owns its memory, as a saved file demands."""
    implied, facts = family.implied(case.arch), Facts(num_heads=case.arch["num_heads"])
    kept = family.stored(case, {k: v for k, v in state.items() if k not in implied})
    upstream = FORMATS[family.format].encode(kept, facts)
    return {k: v.clone(memory_format=torch.contiguous_format) for k, v in upstream.items()}


def foreign(family: Family, case: Case) -> StateDict:
    """Tensors such checkpoints carry beside the image encoder (text tower, loss scale)."""
    return fill(family.foreign(case.arch), Contents("normal", case.contents.seed + 1), getattr(torch, case.dtype))


def wrap(state: StateDict, wrapper: str) -> dict[str, Any]:
    """``state`` inside the wrapper a training script saves, with the entries that usually stand beside it.

    ``model.state_dict`` nests. ``params/img/`` prefixes every key as Flax trees do, except those that begin with a slash:
    they belong beside the prefix, and are left out where nothing is beside it. ``scan`` stacks the blocks into one, before
    any prefix (``params/+scan``).
    """
    if wrapper == "bare":
        return {k: v for k, v in state.items() if not k.startswith("/")}
    if "/" in wrapper or wrapper == "scan":
        prefix = wrapper.removesuffix("scan").removesuffix("+")
        tree = _stacked(state) if wrapper.endswith("scan") else state
        named = {k[1:] if k.startswith("/") else prefix + k: (k, v) for k, v in tree.items()}
        return {name: v for name, (k, v) in named.items() if not (k.startswith("/") and name.startswith(prefix))}
    wrapped: dict[str, Any] = dict(state)
    for name in reversed(wrapper.split(".")):
        wrapped = {name: wrapped, "epoch": 3, "optimizer": {"lr": 0.1, "step": torch.zeros(())}}
        if name == "encoder":  # I-JEPA saves the averaged encoder beside it, under the same keys
            wrapped["target_encoder"] = {k: v + 1 for k, v in state.items()}
    return wrapped


def _stacked(state: Mapping[str, Tensor]) -> StateDict:
    """Blocks ``encoderblock_0/...`` stacked as big_vision's scan does: ``encoderblock/...`` with a leading depth axis."""
    first = "encoderblock_0/"
    out = {}
    for key, value in state.items():
        if first in key:
            names = (key.replace(first, f"encoderblock_{i}/") for i in range(len(state)))
            blocks = [state[name] for name in takewhile(state.__contains__, names)]
            out[key.replace(first, "encoderblock/")] = torch.stack(blocks)
        elif "/encoderblock_" not in key:
            out[key] = value
    return out


def copy(checkpoint: Any, device: str) -> Any:
    """A deep copy on ``device`` whose tensors own their memory."""
    if isinstance(checkpoint, Tensor):
        return checkpoint.clone() if checkpoint.device.type == device else checkpoint.to(device)
    return {k: copy(v, device) for k, v in checkpoint.items()} if isinstance(checkpoint, dict) else checkpoint


def write(state: StateDict, wrapper: str, container: str, folder: Path) -> Path:
    """Save a checkpoint; safetensors holds tensors only and is written without a wrapper."""
    path = folder / f"checkpoint.{container}"
    if container == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif container == "npz":
        np.savez(path, **{k: array(v) for k, v in wrap(state, wrapper).items()})
    else:
        torch.save(wrap(state, wrapper), path)
    return path


def array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device as NumPy stores it: bfloat16 as raw two-byte items."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view("V2")
    return tensor.numpy()


def read(path: Path) -> dict[str, Any]:
    """Load a file that :func:`write` made; a ``.npz`` gives arrays."""
    if path.suffix == ".npz":
        with np.load(path) as tree:
            return dict(tree)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
