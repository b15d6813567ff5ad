"""The invariant of NaFlexViT: it computes the same as the classic model whose checkpoint it loads."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace
from torch import Tensor

from ..checkpoints import wrappers
from ..families import FAMILIES
from ..trials.acceptance import fits
from ..trials.loaded import Blocked
from ..trials.problems import Problem
from ..trials.trial import Trial
from .equivalence import COMPARABLE, output, same_outputs
from .registry import invariant


def _applies(trial: Trial) -> str | None:
    return COMPARABLE(trial) if trial.family.classic else "the model is the one such checkpoints were made for"


@invariant(
    statement=(
        "A NaFlexViT loaded from a classic checkpoint computes, at the native grid, what the classic model loaded from the "
        "same checkpoint computes."
    ),
    catches="positions of prefix tokens lost or added to others, patches flattened in another order, a norm out of place.",
    regimes=("native",),
    applies=_applies,
    concerns=lambda family: bool(family.classic),
)
def naflex_classic_forward(trial: Trial) -> Iterator[Problem]:
    classic = classic_trial(trial)
    loaded = classic.convert(trial.to_device(wrappers.wrap(trial.upstream, trial.case.wrapper)))
    if not loaded.ok or not fits(classic.model(), loaded.raw):
        raise Blocked("the classic model does not load the checkpoint")

    def computed(image: Tensor) -> Tensor:
        return output(classic.model(), loaded.raw, image)

    yield from same_outputs(trial, computed)


def classic_trial(trial: Trial) -> Trial:
    """The trial of the case on the classic model. Only its model and its conversion are used, not its tensors."""
    arch = {**trial.case.arch, **trial.family.forward_arch(trial.case)}
    case = replace(trial.case, family=trial.family.classic, arch=arch)
    return Trial(FAMILIES[case.family], case, trial.loader, trial.device)
