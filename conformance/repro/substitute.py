"""Puts the reference in the place of the loader under test. The bug that a script shows must disappear with it."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from .. import reference
from ..families import Family
from ..targets.loader import Loader
from ..targets.models import model_class


@contextlib.contextmanager
def reference_substituted(family: Family, arch: Mapping[str, Any], loader: Loader) -> Iterator[None]:
    """A context in which the name of the target's loader of a family refers to the reference."""
    owner, name = _lookup(family, loader)

    def convert(checkpoint: Mapping[str, Any], model: nn.Module, **options: Any) -> dict[str, Tensor]:
        return reference.load_state_dict(checkpoint, model, resampling=family.resampling(arch))

    def load_pretrained(model: nn.Module, path: str, prefix: str = "") -> None:
        model.load_state_dict(reference.load_state_dict(np.load(path), model))

    own = getattr(owner, name)
    setattr(owner, name, load_pretrained if family.in_place else convert)
    try:
        yield
    finally:
        setattr(owner, name, own)


def can_substitute(family: Family, loader: Loader) -> bool:
    """Whether the target has a loader of the family that can be replaced."""
    if loader.target.kind == "reference":
        return False
    return loader.target.kind == "loader" or family.in_place or loader.filter_function(family) is not None


def _lookup(family: Family, loader: Loader) -> tuple[Any, str]:
    """The object and the attribute name under which callers look up the loader of a family."""
    if loader.target.kind == "loader":
        module, _, name = loader.target.value.partition(":")
        return importlib.import_module(module), name
    if family.in_place:
        return model_class(family), "load_pretrained"
    found = loader.filter_function(family)
    assert found is not None  # else nothing can take its place
    return sys.modules[found.__module__], found.__name__
