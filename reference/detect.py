"""Which format a checkpoint is: found from its keys, one answer or an error that names the keys seen."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .errors import LoadError, some
from .formats import FORMATS, Format

WRAPPERS = ("model", "state_dict")
_MAX_NESTING = 4


def unwrap(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of ``model`` and ``state_dict`` wrappers in any nesting.

    Raises :class:`LoadError` when what is left is no mapping of names to tensors.
    """
    state = checkpoint
    for _ in range(_MAX_NESTING):
        inner = next((state[w] for w in WRAPPERS if isinstance(state.get(w), Mapping)), None)
        if inner is None:
            break
        state = inner
    others = [str(k) for k, v in state.items() if not isinstance(v, Tensor)]
    if others or not state:
        what = f"not a tensor: {some(others)}" if others else "it is empty"
        raise LoadError(f"no state_dict in this checkpoint ({what}); looked under {', '.join(WRAPPERS)}")
    return dict(state)


def detect(state_dict: Mapping[str, Tensor]) -> Format:
    """The format of an unwrapped checkpoint. Raises :class:`LoadError` when none or several fit."""
    fits = [f for f in FORMATS.values() if f.evidence(state_dict)]
    if len(fits) == 1:
        return fits[0]
    seen = some(state_dict)
    if fits:
        raise LoadError(f"ambiguous checkpoint: fits {', '.join(f.name for f in fits)}; keys seen: {seen}")
    raise LoadError(f"unknown checkpoint format; known are {', '.join(FORMATS)}; keys seen: {seen}")
