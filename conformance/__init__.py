"""Property-based conformance suite for timm's Vision Transformer checkpoint loaders.

``vit_conformance(loader)`` is a pytest test of a loader of one's own, ``run_conformance(loader)`` judges one without pytest.
Both are imported when they are asked for: ``import timm_conformance`` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import run_conformance
    from .suite.parametrize import vit_conformance

__all__ = ["run_conformance", "vit_conformance"]

_HOMES = {"run_conformance": ".api", "vit_conformance": ".suite.parametrize"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
