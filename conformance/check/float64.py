"""A forward pass in float64 with tensors of any dtype, for example those of a memory-mapped file.

Each tensor is converted where it is used and released afterwards. So a pass takes the memory of its largest operation, not of
a second model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class InFloat64(TorchFunctionMode):
    """A context in which every operation gets its floating-point tensors in float64.

    Results are float64 already. Any other tensor comes from a checkpoint or a buffer, and ``nudged`` is applied to it.
    """

    def __init__(self, nudged: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        super().__init__()
        self.nudged = nudged

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if (
            getattr(function, "__name__", "") == "__get__"
        ):  # reads a shape, a dtype or a transposed view, and computes nothing
            return function(*args, **(kwargs or {}))
        return function(*self._inside(args), **self._inside(kwargs or {}))

    def _inside(self, value: Any) -> Any:
        """An argument with its tensors widened, those in lists, tuples and dicts too."""
        if isinstance(value, Tensor):
            return self._widened(value)
        if type(value) in (list, tuple):
            return type(value)(map(self._inside, value))
        return {k: self._inside(v) for k, v in value.items()} if type(value) is dict else value

    def _widened(self, tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64 or not tensor.is_floating_point():
            return tensor
        return self.nudged(tensor.to(torch.float64))
