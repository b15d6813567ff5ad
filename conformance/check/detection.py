"""Which format and families a checkpoint is of, and the keys that show it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..drawing.catalogue import catalogue, models_of
from ..families import FAMILIES, Family
from ..reference import Format, LoadError, detect

_SHOWN = 4


def families_of(form: Format, model: str, module: str) -> list[Family]:
    """The families of a format whose models ``model`` is among, by its name, else by its timm ``module``; the likeliest first.

    One with fewer registered models says more: FlexiViT rather than any model in timm's own layout.
    """
    names = {model} | {n for n in catalogue() if n.partition(".")[0] == model}
    fit = [f for f in FAMILIES.values() if f.format == form.name and f.module == module]
    named = [f for f in fit if names & {m.name for m in models_of(f)}]
    return sorted(named or fit, key=lambda f: len(models_of(f)))


def recognised(state: Mapping[str, Tensor], names: Mapping[str, object], model: str, module: str) -> Format:
    """The format of an unwrapped checkpoint for a model with tensors of these names.

    What its own keys say, where such a format has families among the models of ``module``; the names of a model's own
    checkpoint may be another format's, too, and then only the model tells. Raises :class:`reference.LoadError`.
    """
    read_as = detect(state, names)
    try:
        by_keys = detect(state)
    except LoadError:
        return read_as
    return by_keys if families_of(by_keys, model, module) else read_as


def evidence(form: Format, state: Mapping[str, Tensor]) -> list[str]:
    """The keys without which a checkpoint would not be of this format, at most four; else the first parts of such keys."""
    if not form.evidence(state):
        return ["the model's own names, all of them"]

    def needed(part: str, parts: Mapping[str, str]) -> bool:
        return not form.evidence({k: v for k, v in state.items() if parts[k] != part})

    whole, first = {k: k for k in state}, {k: k.partition(".")[0] for k in state}
    keys = [k for k in whole if needed(k, whole)]
    return keys[:_SHOWN] or [f"{part}.*" for part in dict.fromkeys(first.values()) if needed(part, first)]
