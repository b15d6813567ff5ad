"""Detects the format of a checkpoint from its keys: exactly one format, or an error that names the keys seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from . import flax
from .errors import LoadError, some
from .formats import FORMATS, Format

# I-JEPA's training checkpoints keep the context encoder under "encoder", beside the predictor and the target encoder.
WRAPPERS = ("model_ema", "model", "module", "state_dict", "encoder")
CLASSIFIERS = ("head.", "head_dist.")
_MAX_NESTING = 8
_KERNEL = "patch_embed.proj.weight"


def unwrap(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint, taken out of wrappers such as ``model``, ``state_dict`` and ``encoder``, up to eight deep.

    A key is a wrapper only if it holds tensors, or another wrapper that does. Flax trees, such as an open ``.npz`` file, lose
    their prefix, and scanned blocks become single ones. Raises :class:`LoadError` if the result is no mapping of names to
    tensors.
    """
    if not isinstance(checkpoint, Mapping):
        raise LoadError(f"a checkpoint is a dict of tensors, this is a {type(checkpoint).__name__}")
    state = flax.tensors(checkpoint)
    for _ in range(_MAX_NESTING):
        inner = next((state[w] for w in WRAPPERS if _holds_tensors(state.get(w))), None)
        if inner is None:
            break
        state = inner
    others = [str(k) for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others or not state:
        what = f"not a named tensor: {some(others)}" if others else "it is empty"
        raise LoadError(f"no state_dict in this checkpoint ({what}); looked under {', '.join(WRAPPERS)}")
    special = [f"{k} ({form})" for k, v in state.items() if (form := _special(v))]
    if special:
        raise LoadError(f"only dense tensors can be loaded, convert the others first: {some(special)}")
    return flax.plain(state)


def _special(tensor: Tensor) -> str:
    """How a tensor is stored if it is not dense; empty for a dense tensor."""
    if tensor.is_nested or tensor.is_quantized:
        return "nested" if tensor.is_nested else "quantized"
    return "" if tensor.layout == torch.strided else str(tensor.layout).removeprefix("torch.")


def _holds_tensors(entry: object) -> bool:
    """Whether a wrapper's entry holds tensors, or a wrapper that does.

    Each dict is visited once per level, since dicts may hold each other.
    """
    level = [entry]
    for _ in range(_MAX_NESTING):
        dicts = {id(e): e for e in level if isinstance(e, Mapping)}.values()
        if any(isinstance(v, Tensor) for e in dicts for v in e.values()):
            return True
        if not dicts:
            break
        level = [e.get(w) for e in dicts for w in WRAPPERS]
    return False


def detect(state_dict: Mapping[str, Tensor], names: Collection[str] = ()) -> Format:
    """The format of an unwrapped checkpoint. Raises :class:`LoadError` if none or several fit.

    ``names`` are the tensors of the destination model. A checkpoint with exactly these names, classifiers aside, and a
    convolution as its patch kernel is the model's own. This decides names that several formats share, for example those that
    DeiT-III and timm's Eva have in common.
    """
    own = _but_classifiers(names)
    if own and own == _but_classifiers(state_dict) and (_KERNEL not in own or state_dict[_KERNEL].ndim == 4):
        return FORMATS["timm_native"]
    fits = [f for f in FORMATS.values() if f.evidence(state_dict)]
    if len(fits) == 1:
        return fits[0]
    seen = some(state_dict)
    if fits:
        raise LoadError(f"ambiguous checkpoint: fits {', '.join(f.name for f in fits)}; keys seen: {seen}")
    raise LoadError(f"unknown checkpoint format; known are {', '.join(FORMATS)}; keys seen: {seen}")


def _but_classifiers(names: Collection[str]) -> set[str]:
    return {name for name in names if not name.startswith(CLASSIFIERS)}
