"""Invariants of refusals: a checkpoint that does not fit is refused, and the refusal changes nothing.

A target refuses a checkpoint if its conversion raises, or if the strict load that follows would raise, as in
``create_model``. A strict load copies the tensors that fit before it raises. That is torch's documented behaviour, so no loader
is blamed for it. A ``.npz`` file is written straight into the model and no strict load follows, so there only an exception is a
refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..checkpoints import wrappers
from ..reference.errors import some
from ..trials.acceptance import accepted, fits
from ..trials.loaded import Blocked, Loaded
from ..trials.problems import Problem
from ..trials.trial import Trial
from .end_to_end import as_saved, wrongly_created
from .hygiene import checkpoint_changes
from .registry import invariant, unless


def _judge_refusal(trial: Trial) -> Iterator[Problem]:
    if not (trial.base.ok and fits(trial.model(), trial.base.raw)):
        raise Blocked("the whole checkpoint is refused as well")
    loaded, _ = trial.damaged
    if accepted(trial, loaded):
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
    yield from _judge_refusal(trial)


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
    yield from _judge_refusal(trial)


def _applies(trial: Trial) -> str | None:
    case = trial.case
    if case.in_chans is not None or case.other_classes:
        return "the model has other channels or classes than the checkpoint, so the load is not strict"
    if "siglip" in case.model_name and case.model_arch.get("global_pool") != "map":
        return "timm says that it loads a SigLIP model without its attention pool by a load that is not strict"
    if case.turn % 3:
        return "every third case is loaded with its damage by create_model"
    return as_saved(trial)


@invariant(
    statement="A damaged file that the loader and a strict load refuse is refused by `create_model` as well.",
    catches="a load that is not strict, an error that became a warning, a repair that only the model factory does.",
    regimes=("damage-missing", "damage-deeper", "native", "resampled"),
    applies=_applies,
    timm_alone=True,
)
def create_model_refuses(trial: Trial) -> Iterator[Problem]:
    if any(wrongly_created(trial)):
        raise Blocked("create_model does not load the whole file as it should, which create-model reports")
    if accepted(trial, trial.damaged[0]):
        raise Blocked("the loader itself does not refuse the damaged checkpoint")
    if not isinstance(trial.created_damaged.outcome, Exception):
        damage, _ = trial.damage
        yield Problem(f"{trial.case.damage}-loaded", damage.tensor, f"{damage.what}, and create_model loads it")


@invariant(
    statement="After a refusal the model is as it was before, and so is the caller's checkpoint.",
    catches="parameters written one by one until one does not fit, tensors taken out of the caller's dict and not put back.",
    regimes=("damage-missing", "damage-wider", "damage-transposed"),
)
def untouched_after_refusal(trial: Trial) -> Iterator[Problem]:
    loaded, touched = trial.damaged
    if accepted(trial, loaded):
        raise Blocked("the damaged checkpoint is not refused")
    if touched:
        yield Problem("model-written", "", f"written before the refusal: {some(touched)}")
    if not trial.family.in_place:
        yield from _left_changed(trial, loaded)


def _left_changed(trial: Trial, loaded: Loaded) -> Iterator[Problem]:
    """Changes in the caller's checkpoint that only a refusal makes. Those of any load are judged by input-unmodified."""
    found = list(checkpoint_changes(_wrapped(trial, trial.damage[1]), loaded.checkpoint_after))
    if found:
        anyway = {
            (p.kind, p.tensor) for p in checkpoint_changes(_wrapped(trial, trial.upstream), trial.base.checkpoint_after)
        }
        yield from (p for p in found if (p.kind, p.tensor) not in anyway)


def _wrapped(trial: Trial, state: Mapping[str, Tensor]) -> dict[str, Any]:
    return trial.to_device(wrappers.wrap(state, trial.case.wrapper))
