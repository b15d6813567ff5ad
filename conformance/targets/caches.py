"""The caches of functions (:func:`functools.cache`, ``lru_cache``) in modules that are imported, and how to empty them."""

from __future__ import annotations

import sys
from collections.abc import Callable


def cache_clearers(*packages: str) -> list[Callable[[], None]]:
    """The ``cache_clear`` of every cached function in these packages or modules, each once."""
    modules = [m for name, m in list(sys.modules.items()) if any(f"{name}.".startswith(f"{p}.") for p in packages)]
    found = {id(value): value for module in modules for value in vars(module).values() if hasattr(value, "cache_clear")}
    return [value.cache_clear for value in found.values()]
