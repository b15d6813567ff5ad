"""From a case to a checkpoint: the timm-layout truth, the upstream tensors, the wrapped dict, the file."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..cases.case import Case, Contents
from ..families import Family
from ..families.base import Shapes
from ..reference import FORMATS, Facts

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


def copy(checkpoint: Any, device: str) -> Any:
    """A deep copy on ``device`` whose tensors own their memory."""
    if isinstance(checkpoint, Tensor):
        return checkpoint.clone() if checkpoint.device.type == device else checkpoint.to(device)
    return {k: copy(v, device) for k, v in checkpoint.items()} if isinstance(checkpoint, dict) else checkpoint
