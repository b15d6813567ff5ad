"""One cause that makes a checkpoint unusable, or another form of a model, and what its tellers share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Any]


@dataclass(frozen=True)
class Cause:
    """One cause. ``kind`` is its stable name, ``text`` what the file has, ``to_do`` what to do about it.

    ``tensors`` is the number of tensors that it touches, ``keys`` are patterns of a few that tell it. ``stops`` says that nothing
    can be loaded before it is undone.
    """

    kind: str
    text: str
    to_do: str
    tensors: int
    keys: tuple[str, ...]
    stops: bool = True


def tensors_of(state: State) -> dict[str, Tensor]:
    """The tensors of a state dict that have a shape and one dtype."""
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.layout == torch.strided and not v.is_nested}


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that a regular expression matches as a whole."""
    found = re.compile(pattern)
    return [k for k in names if found.fullmatch(k)]
