"""A forward pass in float64 on tensors that stay as they are stored, in a mapped file for example: each is widened where it is
used and dropped again, so that a pass takes the memory of its largest operation, not of a second model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


class InFloat64(TorchFunctionMode):
    """Every operation meanwhile sees float64 in place of stored floating point tensors.

    What is computed is float64 already, so whatever is not comes from a checkpoint or a buffer; it is ``nudged``, too.
    """

    def __init__(self, nudged: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        super().__init__()
        self.nudged = nudged

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") == "__get__":  # a shape, a dtype, a transposed view: nothing is computed
            return function(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(Tensor, self._widened, (args, kwargs or {}))
        return function(*args, **kwargs)

    def _widened(self, tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64 or not tensor.is_floating_point():
            return tensor
        return self.nudged(tensor.to(torch.float64))
