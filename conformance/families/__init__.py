"""The registry of checkpoint families: every module of this package that defines ``FAMILIES``."""

from __future__ import annotations

import importlib
import pkgutil

from .base import Family


def _discover() -> dict[str, Family]:
    found: dict[str, Family] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        for family in getattr(importlib.import_module(f"{__name__}.{info.name}"), "FAMILIES", ()):
            if family.name in found:
                raise ValueError(f"two families are named {family.name}")
            found[family.name] = family
    return found


FAMILIES: dict[str, Family] = _discover()

__all__ = ["FAMILIES", "Family"]
