"""The architectures that a timm release registers: width and depth without building one, shapes without memory.

timm's registered functions hand their options to ``build_model_with_cfg``. A stand-in for it keeps these options, so reading all
of them takes a second. Shapes need a model. It is built on the meta device, and with one block where all blocks are alike.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..reference import LoadError
from ..reference.destination import Destination
from .registry import MODULES

# What initialises a tensor in place and leaves its shape as it is.
_INIT = frozenset(f for f in vars(nn.init).values() if inspect.isfunction(f)) | {
    *(Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.fill_, Tensor.zero_),
    *(Tensor.clamp_, Tensor.mul_, Tensor.div_, Tensor.add_),
}
_NO_SHAPES = ("pretrained_filter_fn", "feature_cfg", "pretrained_strict", "out_indices")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
# Tensors whose shape depends on the number of blocks, or differs from block to block.
_BY_DEPTH = ("rope.freqs", ".rel_pos_h")


@dataclass(frozen=True)
class Architecture:
    """A registered architecture. ``depth`` is the number of blocks, summed over stages. ``naflex`` marks a NaFlexViT.

    ``options`` is the text of its class and options: two architectures with the same text have the same tensors.
    """

    name: str
    module: str
    embed_dim: int
    depth: int
    options: str
    naflex: bool = False


@dataclass(frozen=True)
class Shapes:
    """The shapes of a model's floating-point tensors, in the names of a VisionTransformer, and its sizes.

    They are those of :class:`timm_conformance.reference.destination.Destination`. Integers are indices, which a model computes.
    """

    shapes: Mapping[str, tuple[int, ...]]
    patch_size: tuple[int, int]
    grid_size: tuple[int, int]
    stride: tuple[int, int]


class _Hollow(TorchFunctionMode):
    """Skips all initialisation. Numbers of ``linspace`` stay real, since older releases read drop path rates from it."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _INIT:
            return args[0] if args else kwargs["tensor"]
        if function is torch.linspace:
            kwargs = {**kwargs, "device": "cpu"}
        return function(*args, **kwargs)


class _Taken(Exception):
    """Ends a registered function once its options are known."""


@cache
def architectures() -> Mapping[str, Architecture]:
    """The architectures of the modules that the suite judges, in the timm of this process, by name."""
    import timm

    found = {}
    with _capturing() as taken:
        for name in timm.list_models():
            module = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
            if module not in MODULES:
                continue
            taken.clear()
            try:
                timm.models.model_entrypoint(name)(pretrained=False)
            except _Taken:
                cfg = timm.get_pretrained_cfg(name)
                declared = (cfg.input_size, cfg.num_classes, cfg.fixed_input_size) if cfg else None
                found[name] = _architecture(name, module, declared, **taken)
            except Exception:  # a function that cannot be called without arguments registers no usual model
                continue
    return found


def tags_of(architecture: str) -> tuple[str, ...]:
    """The tags of an architecture's published checkpoints."""
    return _tags().get(architecture, ())


@cache
def _tags() -> Mapping[str, tuple[str, ...]]:
    import timm

    found: dict[str, list[str]] = {}
    for name in timm.list_models(pretrained=True):
        architecture, _, tag = name.partition(".")
        found.setdefault(architecture, []).append(tag)
    return {k: tuple(v) for k, v in found.items()}


@contextmanager
def _capturing() -> Iterator[dict[str, Any]]:
    taken: dict[str, Any] = {}

    def take(cls: type, variant: str, pretrained: bool, *args: Any, **kwargs: Any) -> None:
        taken.update(cls=cls, kwargs=kwargs)
        raise _Taken

    with ExitStack() as stack:
        for module in MODULES:
            name = f"timm.models.{module}"
            if hasattr(sys.modules.get(name), "build_model_with_cfg"):
                stack.enter_context(mock.patch.object(importlib.import_module(name), "build_model_with_cfg", take))
        stack.enter_context(torch.device("meta"))
        stack.enter_context(_Hollow())
        yield taken


def _architecture(name: str, module: str, declared: Any, cls: type, kwargs: Mapping[str, Any]) -> Architecture:
    cfg = kwargs.get("cfg")
    given = {**_defaults(cls), **(vars(cfg) if hasattr(cfg, "__dict__") else {}), **kwargs}
    depths = given.get("depths")
    depth = sum(depths) if depths is not None else given.get("depth") or 0
    told = {k: v for k, v in kwargs.items() if k not in _NO_SHAPES} | {"cls": cls, "declared": declared}
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(sorted((k, repr(v)) for k, v in told.items())))
    return Architecture(name, module, given.get("embed_dim") or 0, depth, text, cls.__name__ == "NaFlexVit")


@cache
def _defaults(cls: type) -> Mapping[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def shapes_of(name: str, options: Mapping[str, Any] = MappingProxyType({})) -> Shapes | None:
    """The shapes of ``timm.create_model(name, **options)``; None if timm cannot build that.

    ``name`` is one of :func:`architectures`, with or without a tag.
    """
    depth = options.get("depth", architectures()[name.partition(".")[0]].depth)
    model = _built(name, {**options, "depth": 1})
    if model is None or any(part in key for key in model.state_dict() for part in _BY_DEPTH):
        model = _built(name, options)
    try:
        found = None if model is None else Destination.of(model)
    except LoadError:
        return None
    if found is None:
        return None
    shapes = {k: v for k, v in found.shapes.items() if k in found.floating}
    if {m[1] for m in map(_BLOCK.match, shapes) if m} == {"0"}:
        first = {k: v for k, v in shapes.items() if k.startswith("blocks.0.")}
        shapes |= {k.replace("blocks.0.", f"blocks.{i}.", 1): v for i in range(1, depth) for k, v in first.items()}
    return Shapes(shapes, found.patch_size, found.grid_size, found.stride)


def _built(name: str, options: Mapping[str, Any]) -> nn.Module | None:
    """A model without memory. On the CPU where its constructor computes what no meta tensor can; None if it cannot be built."""
    import timm

    for device in ("meta", "cpu"):
        try:
            with torch.device(device), _Hollow():
                return timm.create_model(name, **options)
        except NotImplementedError:
            continue
        except Exception:
            return None
    return None
