"""The checkpoint formats that the reference reads and writes, by name: every :class:`Format` of this package's modules."""

from __future__ import annotations

import importlib
import pkgutil

from .rules import Facts, Format

FORMATS: dict[str, Format] = {}

for _info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
    try:
        _module = importlib.import_module(f"{__name__}.{_info.name}")
    except (AttributeError, KeyError, NameError, TypeError, ValueError) as _error:
        raise ImportError(f"reference/formats/{_info.name}.py: {type(_error).__name__}: {_error}") from _error
    for _format in [value for value in vars(_module).values() if isinstance(value, Format)]:
        if FORMATS.setdefault(_format.name, _format) is not _format:
            raise ImportError(f"reference/formats/{_info.name}.py: another format is named {_format.name}")

__all__ = ["FORMATS", "Facts", "Format"]
