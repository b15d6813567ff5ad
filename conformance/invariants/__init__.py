"""The registry of invariants: every module of this package that registers some."""

from __future__ import annotations

import importlib
import pkgutil

from .registry import INVARIANTS, Invariant

for _info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
    importlib.import_module(f"{__name__}.{_info.name}")

__all__ = ["INVARIANTS", "Invariant"]
