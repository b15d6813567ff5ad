"""Opens a checkpoint: finds the entry that holds the model's tensors, and removes what training scripts put before their names.

Source: timm ``timm/models/_helpers.py``: ``load_state_dict`` chooses the entry of a file, the moving average (EMA) of the weights
first; ``clean_state_dict`` removes ``module.`` (DistributedDataParallel) and ``_orig_mod.`` (``torch.compile``) from the names.
The ``checkpoint_filter_fn`` of timm's models open ``module`` (DeepSpeed) and ``encoder`` (I-JEPA) as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from . import flax
from .errors import LoadError, some
from .formats import FORMATS

# In timm's order. I-JEPA keeps the context encoder under "encoder", beside the predictor and the target encoder.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "encoder")
PREFIXES = ("module.", "_orig_mod.")
_MAX_NESTING = 8


@dataclass(frozen=True)
class Opened:
    """The tensors of a checkpoint by name. ``entry`` are the keys under which they lay, outermost first.

    ``prefix`` is what was removed from the beginning of the names; the longest, where they began in several ways.
    """

    state: dict[str, Tensor]
    entry: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def where(self) -> str:
        """Entry and prefix in words. Empty for a plain dict of tensors."""
        words = [f"under {'.'.join(self.entry)}"] if self.entry else []
        words += [f"behind {self.prefix}"] if self.prefix else []
        return ", ".join(words)


def unwrap(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint, as :func:`open_checkpoint` finds them. Raises :class:`LoadError`."""
    return open_checkpoint(checkpoint).state


def open_checkpoint(checkpoint: Mapping) -> Opened:
    """The tensors of a checkpoint, out of up to eight wrappers, without up to eight prefixes.

    Of several wrappers the first in timm's order is opened, if it holds tensors, or another wrapper that does. The prefixes
    ``module.`` and ``_orig_mod.`` are removed in any order from each name that has them, until the names are those of a format
    that has such a prefix itself. They stay where two names would become one. Flax trees, such as an open ``.npz`` file, lose
    their own prefix, and scanned blocks become single ones. Raises :class:`LoadError` if the result is no mapping of names to
    tensors.
    """
    if not isinstance(checkpoint, Mapping):
        raise LoadError(f"a checkpoint is a dict of tensors, this is a {type(checkpoint).__name__}")
    state: Mapping = flax.tensors(checkpoint)
    entry: tuple[str, ...] = ()
    for _ in range(_MAX_NESTING):
        name = next((w for w in WRAPPERS if _holds_tensors(state.get(w))), None)
        if name is None:
            break
        state, entry = state[name], (*entry, name)
    _require_tensors(state)
    state, prefix = _without_prefixes(state, entry)
    return Opened(flax.plain(state), entry, prefix)


def _require_tensors(state: Mapping) -> None:
    """Raise :class:`LoadError` for anything but named dense tensors."""
    others = [str(k) for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others or not state:
        what = f"not a named tensor: {some(others)}" if others else "it is empty"
        raise LoadError(f"no state_dict in this checkpoint ({what}); looked under {', '.join(WRAPPERS)}")
    special = [f"{k} ({form})" for k, v in state.items() if (form := _special(v))]
    if special:
        raise LoadError(f"only dense tensors can be loaded, convert the others first: {some(special)}")


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


def _without_prefixes(state: Mapping[str, Tensor], entry: tuple[str, ...]) -> tuple[Mapping[str, Tensor], str]:
    """The state under shorter names, and the longest prefix that was removed from one."""
    names = {key: key for key in state}
    for _ in range(_MAX_NESTING):
        if not any(name.startswith(PREFIXES) for name in names.values()):
            break
        if _own_prefix({name: state[key] for key, name in names.items()}, entry):
            break
        shorter = {key: _shorter(name) for key, name in names.items()}
        if len(set(shorter.values())) < len(shorter):
            break
        names = shorter
    removed = (key.removesuffix(name) for key, name in names.items())
    return {name: state[key] for key, name in names.items()}, max(removed, key=len)


def _own_prefix(state: Mapping[str, Tensor], entry: tuple[str, ...]) -> bool:
    """Whether the names are those of a format whose own names begin with a prefix."""
    formats = (f for f in FORMATS.values() if f.namespace.startswith(PREFIXES) and f.entry in ("", *entry[-1:]))
    return any(form.evidence(state) for form in formats)


def _shorter(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
