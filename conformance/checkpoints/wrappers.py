"""The wrappers that training scripts put around a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from .state_dicts import StateDict


def wrap(state: Mapping[str, Tensor], wrapper: str) -> dict[str, Any]:
    """``state`` in a wrapper as training scripts save it, with the entries that usually lie beside it.

    ``model.state_dict`` nests. ``params/img/`` prefixes every key, as in Flax trees. A key that begins with a slash lies
    beside the prefix, and is left out if nothing can. ``scan`` stacks the blocks into one before any prefix is added
    (``params/+scan``).
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
        if name == "encoder":  # I-JEPA also saves the averaged encoder, under the same keys
            wrapped["target_encoder"] = {k: v + 1 for k, v in state.items()}
    return wrapped


def as_saved(state: Mapping[str, Tensor], entry: tuple[str, ...], prefix: str) -> dict[str, Any]:
    """``state`` as a training script saves it (``Case.saved``): in nested entries, with ``prefix`` before each name.

    Beside an entry lie others, which timm's reader passes over: see :func:`beside`.
    """
    saved: dict[str, Any] = {prefix + k: v for k, v in state.items()}
    trained = {k: v + 1 for k, v in saved.items()}
    for name in reversed(entry):
        empty, passed_over = beside(name)
        saved = {"epoch": 3, **dict.fromkeys(empty), **dict.fromkeys(passed_over, trained), name: saved}
    return saved


# The entries of a file in the order in which timm's reader looks for them (``load_state_dict`` in ``timm/models/_helpers.py``).
_LOOKED_FOR = ("state_dict_ema", "model_ema", "state_dict", "model")
_AVERAGES = _LOOKED_FOR[:2]


def beside(entry: str) -> tuple[list[str], list[str]]:
    """The entries beside one that timm's reader takes: the averages (EMA) before it, which are None, and all others after it.

    Those after it hold other weights. The reader takes an entry of another name for no entry at all, so only averages lie there.
    """
    place = _LOOKED_FOR.index(entry) if entry in _LOOKED_FOR else len(_LOOKED_FOR)
    return [name for name in _AVERAGES if name in _LOOKED_FOR[:place]], list(_LOOKED_FOR[place + 1 :])


def _stacked(state: Mapping[str, Tensor]) -> StateDict:
    """Blocks ``encoderblock_0/...`` stacked as by big_vision's scan: ``encoderblock/...`` with a leading axis for depth."""
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
