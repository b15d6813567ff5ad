"""A checkpoint that does not fit is refused, and leaves everything as it was.

A target refuses when its conversion raises, or when the strict load that follows would: as in ``create_model``. A strict load
itself copies what fits before it raises, which is torch's documented way and no loader's. A ``.npz`` is written straight into
the model, and no strict load follows: there only an exception refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..checkpoints import wrappers
from ..reference.errors import some
from ..trials.problems import Problem
from ..trials.trial import Blocked, Loaded, Trial
from .equivalence import fits
from .hygiene import changes
from .registry import invariant, unless


def _taken(trial: Trial, loaded: Loaded) -> bool:
    """Whether a user is left with a loaded model and no exception."""
    return loaded.ok and (trial.loader.fills_models(trial.family) or fits(trial.model(), loaded.raw))


def _judge(trial: Trial) -> Iterator[Problem]:
    if not (trial.base.ok and fits(trial.model(), trial.base.raw)):
        raise Blocked("the whole checkpoint is refused as well")
    loaded, _ = trial.damaged
    if _taken(trial, loaded):
        left = [name for name in trial.base.raw if name not in loaded.raw]
        unset = f"; {some(left)} of the model stay as they were" if left else ""
        damage, _ = trial.damage
        yield Problem(f"{trial.case.damage}-loaded", damage.tensor, f"{damage.what}, and it loads{unset}")


@invariant(
    statement="A checkpoint that lacks a tensor is refused.",
    catches="tensors looked for and passed over, so that a part of the model silently stays as it was initialised.",
    regimes=("damage-missing", "native", "resampled"),
    applies=unless(lambda t: t.case.damage == "missing", "the damage of this case is another"),
)
def refuses_incomplete(trial: Trial) -> Iterator[Problem]:
    yield from _judge(trial)


@invariant(
    statement=(
        "A checkpoint with a tensor of another width, transposed, or of a model with more blocks is refused. Values are not "
        "judged: NaN, Inf and integers may be taken."
    ),
    catches="tensors reshaped until they fit, copies that broadcast, blocks left over.",
    regimes=("damage-wider", "damage-cut", "damage-transposed", "damage-deeper", "native", "resampled"),
    applies=unless(lambda t: t.case.damage != "missing", "the damage of this case is another"),
)
def refuses_misfits(trial: Trial) -> Iterator[Problem]:
    yield from _judge(trial)


@invariant(
    statement="After a refusal the model is as it was before, and so is the caller's checkpoint.",
    catches="parameters written one by one until one does not fit, tensors taken out of the caller's dict and not put back.",
    regimes=("damage-missing", "damage-wider", "damage-transposed"),
)
def untouched_after_refusal(trial: Trial) -> Iterator[Problem]:
    loaded, touched = trial.damaged
    if _taken(trial, loaded):
        raise Blocked("the damaged checkpoint is not refused")
    if touched:
        yield Problem("model-written", "", f"written before the refusal: {some(touched)}")
    if not trial.family.in_place:
        yield from _left_changed(trial, loaded)


def _left_changed(trial: Trial, loaded: Loaded) -> Iterator[Problem]:
    """What a refusal changes in the caller's checkpoint that a load does not: input-unmodified judges that."""
    found = list(changes(_wrapped(trial, trial.damage[1]), loaded.given))
    if found:
        anyway = {(p.kind, p.tensor) for p in changes(_wrapped(trial, trial.upstream), trial.base.given)}
        yield from (p for p in found if (p.kind, p.tensor) not in anyway)


def _wrapped(trial: Trial, state: Mapping[str, Tensor]) -> dict[str, Any]:
    return trial.place(wrappers.wrap(state, trial.case.wrapper))
