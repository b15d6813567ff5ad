"""The private parts of torch that tests use, for tensors of devices that this machine has not. The suite itself uses none.

Fake tensors have a device and no values, so two devices in one operation raise. A backend written in Python has values
and a device of its own. torch has no public names for these functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only

SEEN = ("2.13.0",)

# Registers a name for torch's PrivateUse1 device; None in a torch that has no backends written in Python.
setup_python_backend = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)

_aten = torch.ops.aten
# Operators whose other tensors may be on the CPU: copies between devices, and indices, which CUDA moves itself.
COPIES = (_aten.copy_.default, _aten._to_copy.default)
INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default)


def wrapper_tensor(cls: type[Tensor], shape: tuple[int, ...], **facts: Any) -> Tensor:
    """A tensor of a subclass with this shape and device, and no values: ``Tensor._make_wrapper_subclass``."""
    return Tensor._make_wrapper_subclass(cls, shape, **facts)


def schema(operator: Any) -> Any:
    """An operator's schema: its ``arguments`` and ``returns``."""
    return operator._schema


__all__ = [
    "COPIES",
    "INDEXING",
    "SEEN",
    "FakeTensorMode",
    "schema",
    "setup_python_backend",
    "tree_leaves",
    "tree_map_only",
    "wrapper_tensor",
]
