"""A device that is none: tensors with real values on the CPU that claim to be elsewhere, and refuse what a GPU refuses.

``pretend`` is registered as torch's PrivateUse1 backend, written in Python (torch's own way to do that; it needs no compiled
extension). An operation on pretend tensors runs on what they hold and gives pretend tensors; one that mixes them with CPU
tensors raises as CUDA's do, and so do ``.numpy()`` and ``torch.from_numpy`` copies. So a loader, an invariant or the suite
itself that loses the device is caught without a GPU. What it cannot show is what a GPU's kernels compute.

For a process of its own (:mod:`tests.pretend_cuda_worker`): a backend cannot be unregistered.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.torch_internals import (
    COPIES,
    INDEXING,
    schema,
    setup_python_backend,
    tree_leaves,
    tree_map_only,
    wrapper_tensor,
)
from timm_conformance.trials import ambient

NAME = "pretend"
# Ambient states that are none on the pretend device.
PLAIN = ("inference-mode", "autocast")
_FACTORIES = (
    "empty.memory_format",
    "empty_strided",
    "arange",
    "arange.start",
    "arange.start_step",
    "eye",
    "eye.m",
    "linspace",
)


class Pretend(Tensor):
    """A tensor on the pretend device that holds its values in ``held``, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretend:
        facts = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return wrapper_tensor(cls, held.shape, device=f"{NAME}:0", **facts)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:  # torch's own reads values where there are none
        return f"Pretend({self.held!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In a file the values alone: every reader here maps them to the CPU."""
        return self.held.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.held.tolist()

    def untyped_storage(self) -> Any:  # safetensors asks it whether two tensors share memory
        return self.held.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        others = _others(function, args, kwargs)
        if others:  # raised here, where blame for a failure never falls: it is whoever called torch
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and {others[0].device}! (when calling {function})"
            )
        device = kwargs.get("device")
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        out = function(*tree_map_only(Pretend, _held, args), **tree_map_only(Pretend, _held, kwargs))
        if device is not None and torch.device(device).type == "cpu":
            return out
        written = _written(function, args, kwargs)
        if written is not None:
            return written
        return tree_map_only(Tensor, Pretend, out)


def _held(tensor: Pretend) -> Tensor:
    return tensor.held


def _others(function: Any, args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """Tensors of other devices that CUDA would not take: a number on the CPU it takes where it works element by element."""
    if function in COPIES:
        return []
    if function in INDEXING and isinstance(args[0], Pretend):
        args = (args[0], *args[2:])
    scalars = torch.Tag.pointwise in function.tags
    others = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and not isinstance(t, Pretend)]
    return [t for t in others if t.device.type != "cpu" or not (scalars and t.ndim == 0)]


def _written(function: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The argument that an operation wrote into and returns; it is no new tensor, and its shape must be the old one."""
    given = dict(zip((a.name for a in schema(function).arguments), args)) | kwargs
    names = [a.name for a in schema(function).arguments if a.alias_info is not None and a.alias_info.is_write]
    if not names or not schema(function).returns:
        return None
    (written,) = (given[name] for name in names)
    if isinstance(written, Pretend) and written.shape != written.held.shape:
        raise NotImplementedError(f"{function} changes the shape of a tensor in place")
    return written


def _made(function: Callable[..., Tensor]) -> Callable[..., Pretend]:
    """A factory's kernel for the pretend device."""

    def make(*args: Any, **kwargs: Any) -> Pretend:
        return Pretend(function(*args, **kwargs | {"device": torch.device("cpu")}))

    return make


def install() -> None:
    """Register the device, once a process."""
    setup_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    for name in _FACTORIES:
        packet, _, overload = name.partition(".")
        library.impl(name, _made(getattr(getattr(torch.ops.aten, packet), overload or "default")), "PrivateUse1")
    install.library = library  # its registrations live as long as it does
    # A backend in Python is passed over in inference mode, and none has autocast: these two states are plain here.
    mock.patch.dict(ambient.STATES, dict.fromkeys(PLAIN, _nothing)).start()


def _nothing(device: str) -> nullcontext:
    return nullcontext()
