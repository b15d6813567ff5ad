"""Fits the names of a converted checkpoint to a model: what is left out, what is copied, and what is refused.

Source of the copied tables: ``microsoft/unilm`` ``beit/run_class_finetuning.py``, which gives each block of a model that is
fine-tuned the one table of pre-training.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from .destination import Destination
from .detect import CLASSIFIERS
from .errors import LoadError, some

_GRID = "pos_embed"
_OWN_TABLE = ".attn.relative_position_bias_table"
_SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
# A model without query and value biases loads a checkpoint in which these biases are zeros (DINOv3).
_ATTENTION_BIASES = (".q_bias", ".v_bias")
# Dtypes of weights. float8 is not among them, since its values need a scale.
_WEIGHTS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def for_model(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """The state with the names that the model has: no classifier or zero biases that it lacks, a bias table for each block.

    Raises :class:`LoadError` for other misfits of names, axes and dtypes.
    """
    shapes = destination.shapes
    for head in CLASSIFIERS:
        if not any(name.startswith(head) for name in shapes):
            state = {k: v for k, v in state.items() if not k.startswith(head)}
    state = {k: v for k, v in state.items() if k in shapes or not (k.endswith(_ATTENTION_BIASES) and _is_zero(v))}
    state = _with_own_tables(state, shapes)
    names = (("missing", [k for k in shapes if k not in state]), ("unexpected", [k for k in state if k not in shapes]))
    if any(found for _, found in names):
        raise LoadError("checkpoint does not fit the model: " + "; ".join(f"{t}: {some(n)}" for t, n in names if n))
    empty = [f"{k} {tuple(v.shape)}" for k, v in state.items() if not v.numel() and prod(shapes[k])]  # type: ignore[arg-type] # mypy asks for literals here
    if empty:
        raise LoadError(f"checkpoint has tensors without values: {some(empty)}")
    integers = [k for k, v in state.items() if k in destination.floating and v.dtype not in _WEIGHTS]
    if integers:
        found = some(f"{k} {str(state[k].dtype).removeprefix('torch.')}" for k in integers)
        raise LoadError(
            f"weights are floating point numbers of at least 16 bits, convert the checkpoint first: {found}"
        )
    for key, tensor in state.items():
        ndims = {len(shapes[key]), 3} if key == _GRID else {len(shapes[key])}
        if tensor.ndim not in ndims or (key == _GRID and len(tensor) != 1):
            raise LoadError(f"checkpoint does not fit the model: {_misfit(key, tensor, shapes)}")
    return state


def _with_own_tables(state: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The state with BEiT's shared bias table given to each block, where the model's blocks have tables of their own."""
    own = [k for k in shapes if k.endswith(_OWN_TABLE) and k not in state]
    if _SHARED_TABLE not in state or _SHARED_TABLE in shapes or not own:
        return state
    table = state[_SHARED_TABLE]
    return {k: v for k, v in state.items() if k != _SHARED_TABLE} | {k: table.clone() for k in own}


def _misfit(key: str, tensor: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{key} is {tuple(tensor.shape)}, the model has {shapes[key]}"


def _is_zero(tensor: Tensor) -> bool:
    """Whether a bias is zero. A bias on the meta device has no values and counts as zero."""
    return tensor.is_meta or not bool(tensor.any())


def complete(state: dict[str, Tensor], destination: Destination) -> dict[str, Tensor]:
    """The state itself. Raises :class:`LoadError` for shapes that a strict load would refuse."""
    shapes = destination.shapes
    wrong = [_misfit(k, v, shapes) for k, v in state.items() if v.shape != shapes[k]]
    if wrong:
        raise LoadError(f"checkpoint does not fit the model: {some(wrong)}")
    return state
