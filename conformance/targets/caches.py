"""Emptying what functions remember of earlier calls (:func:`functools.cache`), in modules imported already."""

from __future__ import annotations

import sys
from collections.abc import Callable


def caches(*packages: str) -> list[Callable[[], None]]:
    """What empties the caches of functions of these packages or modules, each once."""
    modules = [m for name, m in list(sys.modules.items()) if any(f"{name}.".startswith(f"{p}.") for p in packages)]
    found = {id(value): value for module in modules for value in vars(module).values() if hasattr(value, "cache_clear")}
    return [value.cache_clear for value in found.values()]
