"""Detects the format of a checkpoint from its keys: exactly one format, or an error that names the keys seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from .errors import LoadError, some
from .formats import FORMATS, Format

CLASSIFIERS = ("head.", "head_dist.")
_KERNEL = "patch_embed.proj.weight"


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
