"""The wrappers that training scripts put around a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from .state_dicts import StateDict


def wrap(state: StateDict, wrapper: str) -> dict[str, Any]:
    """``state`` inside the wrapper a training script saves, with the entries that usually stand beside it.

    ``model.state_dict`` nests. ``params/img/`` prefixes every key as Flax trees do, except those that begin with a slash:
    they belong beside the prefix, and are left out where nothing is beside it. ``scan`` stacks the blocks into one, before
    any prefix (``params/+scan``).
    """
    if wrapper == "bare":
        return {k: v for k, v in state.items() if not k.startswith("/")}
    if "/" in wrapper or wrapper == "scan":
        prefix = wrapper.removesuffix("scan").removesuffix("+")
        tree = _stacked(state) if wrapper.endswith("scan") else state
        named = {k[1:] if k.startswith("/") else prefix + k: (k, v) for k, v in tree.items()}
        return {name: v for name, (k, v) in named.items() if not (k.startswith("/") and name.startswith(prefix))}
    wrapped: dict[str, Any] = dict(state)
    for name in reversed(wrapper.split(".")):
        wrapped = {name: wrapped, "epoch": 3, "optimizer": {"lr": 0.1, "step": torch.zeros(())}}
        if name == "encoder":  # I-JEPA saves the averaged encoder beside it, under the same keys
            wrapped["target_encoder"] = {k: v + 1 for k, v in state.items()}
    return wrapped


def _stacked(state: Mapping[str, Tensor]) -> StateDict:
    """Blocks ``encoderblock_0/...`` stacked as big_vision's scan does: ``encoderblock/...`` with a leading depth axis."""
    first = "encoderblock_0/"
    out = {}
    for key, value in state.items():
        if first in key:
            names = (key.replace(first, f"encoderblock_{i}/") for i in range(len(state)))
            blocks = [state[name] for name in takewhile(state.__contains__, names)]
            out[key.replace(first, "encoderblock/")] = torch.stack(blocks)
        elif "/encoderblock_" not in key:
            out[key] = value
    return out
