"""Models without their random initialisation, which is a fifth of the time of all: what is judged is loaded afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RANDOM = frozenset(
    {nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, Tensor.uniform_, Tensor.normal_, Tensor.erfinv_}
)


class SkipInit(TorchFunctionMode):
    """Spares the models built inside it their random initialisation.

    What would be drawn is one number no checkpoint holds, so that a weight the loader never touches cannot pass for loaded.
    """

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function in _RANDOM:
            with torch.no_grad():
                return (args[0] if args else kwargs["tensor"]).fill_(12345.678)
        return function(*args, **(kwargs or {}))
