"""Why a checkpoint cannot be used, and what to do: a single cause, an unknown layout, or a model that it does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..reference import FORMATS, LoadError
from . import advice, without_model
from .detection import Detector
from .explaining.cause import Cause
from .explaining.causes import single_causes
from .explaining.fitting import rank_models
from .explaining.keys import shown
from .loading import RequestedModel
from .search import mappings

_MORE_TOKENS = "more-tokens"
# Beginnings of reasons that say no more than that no known layout was found.
_NO_LAYOUT = ("unknown checkpoint format", "no state_dict in this checkpoint")


@dataclass(frozen=True)
class Refusal:
    """Why the reference refuses a checkpoint, the ``causes`` that its tensors show, and what ``to_do``, one line each."""

    reason: str
    causes: list[str] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)


def explain(
    reason: str,
    content: Mapping[str, Any],
    state: Mapping[str, Tensor] | None,
    form: str,
    asked: RequestedModel,
    detector: Detector,
    release: str,
) -> Refusal:
    """What a refusal's ``reason`` comes from.

    ``state`` are the tensors that were opened, with their format ``form``; None if no known layout was found in the file's
    ``content``. ``release`` is the timm of this process.
    """
    looked_at = largest(content) if state is None else state
    causes = single_causes(looked_at) if state is None else causes_of(state, form, detector)
    said, to_do = advice.cause_lines(causes)
    if any(cause.stops for cause in causes):
        return Refusal(reason, said, to_do) if state is not None else Refusal(said[0], said[1:], to_do)
    if state is None:
        without = without_model.told(content)
        if without is not None:
            return Refusal(without[0], said, [without[1]])
        if not (looked_at and reason.startswith(_NO_LAYOUT)):
            return Refusal(reason, said, to_do)
        told, more = advice.unknown_layout_lines(looked_at)
        return Refusal(told, said, to_do + more)
    known = advice.after_refusal(reason, form)
    if not known and "does not fit the model" in reason:
        try:
            own = FORMATS[form].decode(state, detector.usual.facts)
        except LoadError:
            return Refusal(reason, said, to_do)
        fits = rank_models(own, asked.model, form=form, given=asked.arguments())
        return Refusal(reason, said, to_do + advice.fit_lines(fits, release))
    return Refusal(reason, said, to_do + known)


def causes_of(state: Mapping[str, Tensor], form: str, detector: Detector) -> list[Cause]:
    """The single causes that tensors of a format show. A token that the format has a place for is no cause."""
    causes = single_causes(state)
    if not any(cause.kind == _MORE_TOKENS for cause in causes):
        return causes
    try:
        foreign = {shown(name) for name in detector.decoded(state, FORMATS[form])}
    except LoadError:
        return causes
    return [cause for cause in causes if cause.kind != _MORE_TOKENS or foreign.intersection(cause.keys)]


def largest(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The named tensors of the entry with the most of them; empty if there are none."""
    return max((state for _, state in mappings(content)), key=len, default={})
