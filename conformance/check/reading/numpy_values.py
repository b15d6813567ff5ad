"""Arrays and numbers of numpy that a pickle holds, read without numpy's own code, and without running any of the pickle's.

torch's reader that runs no code admits tensors alone. Here it is given stand-ins under the names of numpy's functions and
classes. They keep the dtype, the shape and the bytes, which are then read as numbers. Sources: numpy ``ndarray.__reduce__``,
``dtype.__reduce__``, ``numpy/_core/multiarray.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ...reference.errors import some
from .limits import damaged, refused

# Kinds and sizes of numbers, as numpy codes them.
_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}

T = TypeVar("T")


class FromNumpy(dict[str, Any]):
    """A content of which ``arrays`` were arrays of numpy, and ``numbers`` numbers of it. They are tensors and numbers now."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays = self.numbers = 0

    @property
    def text(self) -> str:
        """What this means to a user, in one line."""
        refuses = "which torch.load(weights_only=True) refuses"
        if self.arrays:
            return (
                f"{self.arrays} of its values are numpy arrays, {refuses}: "
                "save {k: torch.as_tensor(v) for k, v in state.items()} in their place"
            )
        return f"{self.numbers} of its values are numbers of numpy, {refuses}: save them as Python's, float(x)"


class _DType:
    """A stand-in for ``numpy.dtype``: ``code`` is its kind and size, ``order`` that of its bytes."""

    def __init__(self, code: object = "", align: object = False, copy: object = False) -> None:
        self.code = code if isinstance(code, str) else ""
        self.order: Any = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]
        if any(part is not None for part in state[2:5]):
            self.code = "V"  # has fields


class _Array:
    """A stand-in for ``numpy.ndarray`` and for a number of numpy, which has no axes (``scalar``)."""

    shape: tuple[int, ...] = ()
    dtype: object = None
    fortran = False
    data: object = b""
    scalar = False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def value(self, path: Path) -> Any:
        """The array as a tensor, or the number. Raises :class:`UserError` for anything but numbers."""
        dtype: Any = self.dtype
        if not isinstance(dtype, _DType) or dtype.code not in _NUMBERS or dtype.order not in ("<", ">", "|", "="):
            raise refused(
                path,
                f"it holds a numpy array of no numbers ({some([str(getattr(dtype, 'code', '?'))])}), which is not read; load it "
                "yourself and torch.save {k: torch.as_tensor(v) for k, v in state.items()}",
            )
        numbers = np.dtype(f"{dtype.order}{dtype.code}")
        if not isinstance(self.data, bytes) or prod(self.shape) * numbers.itemsize != len(self.data):
            raise damaged(path, "a numpy array has another number of bytes than its shape")
        flat = np.frombuffer(self.data, numbers) if self.data else np.empty(0, numbers)
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        if self.scalar:
            return array.item()
        return torch.from_numpy(np.array(array, numbers.newbyteorder("="), order="C"))


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    return _Array()


def _scalar(dtype: object, data: object) -> _Array:
    number = _Array()
    number.dtype, number.data, number.scalar = dtype, data, True
    return number


def _no_bytes() -> bytes:
    """What a pickle calls ``bytes()`` for where an array has no values."""
    return b""


def stand_ins() -> list[Any]:
    """The stand-ins, under the names of numpy 1 and 2, to be admitted by ``torch.serialization.safe_globals``."""
    functions = [
        _named(maker, f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for maker, name in ((_reconstruct, "_reconstruct"), (_scalar, "scalar"))
    ]
    empty = [_named(_no_bytes, module, "bytes") for module in ("builtins", "__builtin__")]
    return [*functions, *empty, _DType, _Array]


def _named(maker: Callable[..., T], module: str, name: str) -> Callable[..., T]:
    def made(*args: object) -> T:
        return maker(*args)

    made.__module__, made.__name__, made.__qualname__ = module, name, name
    return made


for _class, _name in ((_DType, "dtype"), (_Array, "ndarray")):
    _class.__module__, _class.__name__, _class.__qualname__ = "numpy", _name, _name


def with_tensors(content: Any, path: Path) -> Any:
    """A content with tensors and numbers in place of stand-ins, in dicts, lists and tuples. Raises :class:`UserError`.

    It is a :class:`FromNumpy` if it is a dict and had any. Each container is visited once.
    """
    made = FromNumpy()

    def changed(value: Any) -> Any:
        if isinstance(value, _Array):
            made.arrays, made.numbers = made.arrays + (not value.scalar), made.numbers + value.scalar
            return value.value(path)
        if isinstance(value, tuple) and type(value) is tuple:
            parts = tuple(map(changed, value))
            return value if all(new is old for new, old in zip(parts, value)) else parts
        if isinstance(value, (dict, list)):
            stack.append(value)
        return value

    stack: list[Any] = []
    seen: set[int] = set()
    content = changed(content)
    while stack:
        entry = stack.pop()
        if id(entry) in seen:
            continue
        seen.add(id(entry))
        for key, old in list(dict.items(entry) if isinstance(entry, dict) else enumerate(entry)):
            new = changed(old)
            if new is not old:
                entry[key] = new
    if not (isinstance(content, dict) and (made.arrays or made.numbers)):
        return content
    made.update(content)
    return made
