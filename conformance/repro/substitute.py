"""The reference in the place of the loader under test: what a script accuses must go away with it."""

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


@contextlib.contextmanager
def mended(family: Family, arch: Mapping[str, Any], loader: Loader) -> Iterator[None]:
    """While it lasts, whoever calls the target's loader of a family by its name calls the reference."""
    owner, name = _place(family, loader)

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


def can_mend(family: Family, loader: Loader) -> bool:
    """Whether the target has a loader of the family that another one can take the place of."""
    if loader.target.kind == "reference":
        return False
    return loader.target.kind == "loader" or family.in_place or loader.filter_function(family) is not None


def _place(family: Family, loader: Loader) -> tuple[Any, str]:
    """Where the loader of a family is looked up when it is called."""
    if loader.target.kind == "loader":
        module, _, name = loader.target.value.partition(":")
        return importlib.import_module(module), name
    if family.in_place:
        return loader.model_class(family), "load_pretrained"
    found = loader.filter_function(family)
    return sys.modules[found.__module__], found.__name__
