"""Destination models: the timm models that a checkpoint is loaded into, built by the imported release's own classes."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..cases.case import Geometry
from ..families import FAMILIES, Family


class Unsupported(Exception):
    """The release cannot build the destination model of a case. The invariants do not apply to it there: no failure."""


def _resolve(value: Any) -> Any:
    """A family's option as the model takes it.

    A string ``"package.module:name"`` becomes that object of the imported timm. A pair of such a string and a dict becomes
    the object with these arguments bound. Any other value stays as it is.
    """
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
        return partial(_resolve(value[0]), **value[1])
    if isinstance(value, str) and ":" in value:
        module, name = value.split(":")
        try:
            return getattr(importlib.import_module(module), name)
        except AttributeError:
            raise Unsupported(f"the release has no {name}") from None
    return value


@cache
def parameters(cls: type) -> frozenset[str]:
    """Names of a model class's constructor arguments.

    A constructor with ``**kwargs`` also takes its base class's arguments, or the fields of its ``cfg``.
    """
    own = inspect.signature(cls).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
        return frozenset(own)
    if "cfg" in own:
        # A class, not an instance of one: its own constructor is meant.
        hint = typing.get_type_hints(cls.__init__)["cfg"]  # type: ignore[misc]
        (config,) = (c for c in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(c))
        return frozenset(own) | {f.name for f in dataclasses.fields(config)}
    return frozenset(own) | parameters(cls.__base__)


def build(family_name: str, arch: tuple, geometry: Geometry, device: str) -> nn.Module:
    """A destination model in evaluation mode on ``device``, without random initialisation where its class allows that.

    ``arch`` holds the items of the case's options, sorted. Raises :class:`Unsupported` where the release cannot build the model.
    """
    family, options = FAMILIES[family_name], dict(arch)
    kwargs = model_kwargs(family, options)
    cls = model_class(family)
    if "weight_init" in inspect.signature(cls).parameters:
        kwargs["weight_init"] = "skip"  # every weight is about to be loaded
    try:
        model = cls(**family.sizes(options, geometry), **kwargs)
    except (TypeError, ImportError, ValueError) as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is None:  # the call itself: our arguments
            raise
        raise Unsupported(f"the release cannot build the model: {error}") from None
    return model.eval() if device == "cpu" else model.eval().to(device)


def model_kwargs(family: Family, arch: Mapping[str, Any], created: bool = False) -> dict[str, Any]:
    """Arguments of the model's constructor, or (``created``) of its registered function, with the release's own classes.

    An argument that the release does not have is left out where its value changes nothing. Raises :class:`Unsupported`
    where it changes something.
    """
    given = ((created and family.created_kwargs) or family.model_kwargs)(arch)
    cls: type = model_class(family)
    known = parameters(cls)
    if created and family.models_module:
        known |= {"use_naflex"}
    if created and family.classic:  # such functions take the classic model's arguments
        classic: type = model_class(FAMILIES[family.classic])
        known |= parameters(classic)
    kwargs = {k: _resolve(v) for k, v in given.items()}
    missing = [k for k, v in kwargs.items() if k not in known and v]
    if missing:
        raise Unsupported(f"the release's {family.model_class} has no {', '.join(missing)}")
    return {k: v for k, v in kwargs.items() if k in known}


def model_class(family: Family) -> type[nn.Module]:
    """The release's class of the family's destination models."""
    try:
        module = importlib.import_module(f"timm.models.{family.module}")
    except ModuleNotFoundError:
        raise Unsupported(f"the release has no timm.models.{family.module}") from None
    return getattr(module, family.model_class)


def fill_with_nan(model: nn.Module) -> None:
    """Fill every parameter with NaN."""
    for parameter in model.parameters():
        parameter.detach().fill_(float("nan"))


def _without_repeats(tensor: Tensor) -> Tensor:
    """A view of an expanded tensor that has each element in memory once. torch refuses to write into the tensor itself."""
    repeated = (slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())
    return tensor[tuple(repeated)] if tensor.ndim else tensor


@contextmanager
def all_changed(model: nn.Module) -> Iterator[None]:
    """Meanwhile every element of a model's parameters and buffers is another one, as after training. It is done in place."""
    tensors = [_without_repeats(t.detach()) for t in (*model.parameters(), *model.buffers())]
    before = [t.clone() for t in tensors]
    for tensor in tensors:
        tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
    try:
        yield
    finally:
        for tensor, old in zip(tensors, before):
            tensor.copy_(old)
