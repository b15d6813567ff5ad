"""Flax parameter trees from ``.npz`` files: converts arrays to tensors, removes prefixes, and splits scanned blocks.

Sources: ``google-research/vision_transformer`` ``vit_jax/checkpoint.py`` (``opt/target/``); ``google-research/big_vision``
``big_vision/utils.py`` (flattened trees, bfloat16 as raw ``|V2``), ``big_vision/models/vit.py: Encoder`` (``scan``: one stack
of blocks with a leading depth axis); PaliGemma keeps its image tower under ``img/``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .errors import LoadError, some

PREFIXES = ("opt/target/", "params/img/", "params/", "img/", "")
ANCHOR = "embedding/kernel"
_STACK = "Transformer/encoderblock/"
_MAX_DEPTH = 1024


def tensor(array: np.ndarray) -> Tensor:
    """A NumPy array as a tensor with its own memory. ``|V2`` becomes bfloat16. Raises :class:`LoadError`."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except TypeError:
        raise LoadError(f"an array of dtype {array.dtype} is no tensor") from None


def tensors(tree: Mapping) -> dict:
    """The entries of a mapping or an open ``.npz`` file, with arrays as tensors. Raises :class:`LoadError` naming the key."""
    out = {}
    for key in tree:
        try:
            value = tree[key]
            out[key] = tensor(value) if isinstance(value, np.ndarray) else value
        except ValueError as error:  # NumPy's refusal of pickled objects, or ours
            raise LoadError(f"{some([str(key)])}: {error}") from None
    return out


def plain(tree: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of a flattened tree, without its prefix and with scanned blocks as single ones.

    Another mapping is returned as it is. Raises :class:`LoadError` for a stack of more than 1024 blocks.
    """
    prefix = next((p for p in PREFIXES if p + ANCHOR in tree), None)
    if prefix is None:
        return dict(tree)
    out: dict[str, Tensor] = {}
    for key, value in tree.items():
        if not key.startswith(prefix):
            continue
        name = key[len(prefix) :]
        if name.startswith(_STACK) and value.ndim:
            rest = name[len(_STACK) :]
            if len(value) > _MAX_DEPTH:
                raise LoadError(f"{some([key])} stacks {len(value)} blocks: no Vision Transformer has so many")
            out.update((f"Transformer/encoderblock_{i}/{rest}", block) for i, block in enumerate(value))
        else:
            out[name] = value
    return out
