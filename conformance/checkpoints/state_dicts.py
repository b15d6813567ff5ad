"""The state dict of a case: its tensors in timm's layout (the truth), the same in the upstream layout, and foreign tensors."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..cases.case import Case, Contents
from ..errors import UserError
from ..families import Family
from ..families.base import Shapes
from ..families.registration import of_arch
from ..reference import Facts
from .formats import format_of

StateDict = dict[str, Tensor]


def fill(shapes: Shapes, contents: Contents, dtype: torch.dtype) -> StateDict:
    """Tensors of the given shapes, the same on every machine for the same ``contents``.

    Small integers are exact in every dtype, so permutations and renames can be compared bit for bit. A one-hot tensor points
    to the wrong element. Seeded normal numbers look like real weights; those of float64 are no float32 numbers.
    """
    generator = torch.Generator().manual_seed(contents.seed)
    total = sum(prod(shape) for shape in shapes.values())
    if contents.kind == "integers":
        values = torch.randint(-4, 5, (total,), generator=generator).float()
    elif contents.kind == "ramp":
        values = (torch.arange(total) + contents.seed).remainder(64).float() / 16 - 2
    else:
        drawn_in = torch.promote_types(dtype, torch.float32)
        values = torch.randn(total, generator=generator, dtype=drawn_in) * 0.4
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
    """The case's checkpoint in timm's layout at its own geometry. A native load must return it bit for bit.

    ``contents`` replaces the case's own values.
    """
    shapes = of_arch(family, "shapes", case.arch, case.source)
    dtype = getattr(torch, case.dtype)
    if family.in_place and dtype == torch.float64:  # what a loader writes into a float32 model comes back from there
        state = {k: v.to(dtype) for k, v in fill(shapes, contents or case.contents, torch.float32).items()}
    else:
        state = fill(shapes, contents or case.contents, dtype)
    for name in family.implied(case.arch):
        if name not in state:
            raise UserError(f"family {family.name!r}: implied names {name}, which shapes does not have")
        state[name].zero_()
    return state


def encode(family: Family, case: Case, state: Mapping[str, Tensor]) -> StateDict:
    """``state`` in the upstream layout. Every tensor owns its memory, which safetensors requires."""
    implied, facts = family.implied(case.arch), Facts(num_heads=case.arch["num_heads"])
    kept = family.stored(case, {k: v for k, v in state.items() if k not in implied})
    upstream = family.written(case, format_of(family).encode(kept, facts))
    return {k: v.clone(memory_format=torch.contiguous_format) for k, v in upstream.items()}


def foreign(family: Family, case: Case) -> StateDict:
    """Tensors that such checkpoints hold beside the image encoder's (text tower, loss scale)."""
    return fill(family.foreign(case.arch), Contents("normal", case.contents.seed + 1), getattr(torch, case.dtype))


def copy(checkpoint: Any, device: str) -> Any:
    """A deep copy on ``device`` whose tensors own their memory."""
    if isinstance(checkpoint, Tensor):
        return checkpoint.clone() if checkpoint.device.type == device else checkpoint.to(device)
    return {k: copy(v, device) for k, v in checkpoint.items()} if isinstance(checkpoint, dict) else checkpoint
