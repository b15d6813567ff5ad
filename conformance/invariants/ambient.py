"""Invariants of ambient states (:mod:`timm_conformance.trials.ambient`): a load is the same in them and leaves them alone.

A model that is *built* in a default dtype has parameters of that dtype, and a model that is built on the meta device has no
values: that is what torch defines. So one invariant converts for a model that was built outside. The other calls
``create_model`` inside, where a default dtype changes the dtype of the model and nothing else, and leaves the default device
out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from msgspec.structs import replace
from torch import Tensor

from ..cases.case import AMBIENT
from ..checkpoints import wrappers
from ..targets.models import Unsupported, build
from ..trials import ambient, bounds
from ..trials.creation import create
from ..trials.loaded import Blocked
from ..trials.problems import Problem, exact_differences, raised
from ..trials.trial import Trial
from .end_to_end import as_saved
from .registry import Applies, both, few_blocks, invariant, unless

_STATES = tuple(f"ambient-{state}" for state in AMBIENT)


def _one_in(count: int) -> Applies:
    """An ``applies`` that holds for one in ``count`` cases of each ambient state."""
    return unless(
        lambda t: t.case.turn // len(AMBIENT) % count == 0,
        f"one in {count} cases of each ambient state is enough: a state matters to few lines of a loader",
    )


@invariant(
    statement=(
        "A conversion gives the same tensors, bit for bit and on the same device, in every ambient state: a default dtype or "
        "device, `torch.autocast`, `inference_mode`, `no_grad`, deterministic algorithms. It leaves the state as it was, and "
        "so is the next load outside."
    ),
    catches=(
        "constants made in the default dtype or on the default device, products rounded by autocast, matrices cached in a state."
    ),
    regimes=(*_STATES, "native", "resampled"),
    applies=both(_one_in(3), few_blocks),
)
def ambient_state_ignored(trial: Trial) -> Iterator[Problem]:
    _ = trial.state
    checkpoint = trial.to_device(wrappers.wrap(trial.upstream, trial.case.wrapper))
    model = trial.model()
    inside: Mapping[str, Tensor] | Exception
    with ambient.within(trial.case.ambient, trial.device) as changed:
        try:
            inside = trial.loader.convert(trial.family, trial.case.arch, checkpoint, model)
        except Exception as error:
            inside = error
    how = f"inside {ambient.CODE[trial.case.ambient][0]}"
    yield from (Problem("state-changed", "", f"after a load {how}, {line}") for line in changed)
    if isinstance(inside, Exception):
        yield raised(inside, f"the load {how}")
    else:
        yield from _differences(trial, inside, how)
    again = trial.load()
    if not again.ok:
        yield again.problem(f"the next load after one {how}")
    else:
        for problem in _differences(trial, again.raw, f"after a load {how}"):
            yield dataclasses.replace(problem, kind=f"{problem.kind}-afterwards")


def _differences(trial: Trial, inside: Mapping[str, Tensor], how: str) -> Iterator[Problem]:
    """Differences of a load of the case from its base, which should agree in everything; ``how`` tells it from the base.

    A default dtype of float64 may place samples more exactly. So resampled tensors may differ as those of two loaders may.
    """
    outside = trial.raw
    elsewhere = [k for k, v in inside.items() if k in outside and v.device != outside[k].device]
    for name in elsewhere:
        yield Problem("device", name, f"{name} is on {inside[name].device} {how}, on {outside[name].device} otherwise")
    case, kept = replace(trial.case, in_chans=None), trial.own_buffers(trial.model())
    there = {**inside, **{k: outside[k] for k in elsewhere}}
    here = trial.family.canonical(case, {k: v for k, v in there.items() if k not in kept})
    for name in {**trial.state, **here}:
        want, got = ({k: v for k, v in state.items() if k == name} for state in (trial.state, here))
        found = exact_differences(want, got)
        if [p.kind for p in found] == ["value"] and name in trial.geometric and trial.changed(name):
            found = trial.compare(name, got[name], want[name], 2 * trial.bound(name))
        yield from (dataclasses.replace(p, message=f"{p.message} {how}") for p in found)


def _created_applies(trial: Trial) -> str | None:
    if trial.case.ambient == "default-device":
        return "a model that is built on the meta device has no values"
    return as_saved(trial)


@invariant(
    statement=(
        "`create_model` on a checkpoint file gives the same tensors in every ambient state, in the default dtype where that is "
        "the state, and leaves the state as it was."
    ),
    catches="what the file reader or model factory does by the default dtype or autocast, states that a load changes for good.",
    regimes=("native", "resampled"),
    applies=both(both(_one_in(4), few_blocks), _created_applies),
    not_on_functions=("native", "resampled"),
)
def create_model_ignores_ambient_state(trial: Trial) -> Iterator[Problem]:
    case, outside = trial.case, trial.created_model.outcome
    if isinstance(outside, Exception):
        raise Blocked("create_model raises outside as well")
    how, written = f"inside {ambient.CODE[case.ambient][0]}", trial.written
    with ambient.within(case.ambient, trial.device) as changed:
        default = torch.get_default_dtype()
        inside = create(trial.loader, trial.family, case, written).outcome
        unbuildable = isinstance(inside, Exception) and not _can_build(trial)
    if unbuildable:
        raise Unsupported(f"the release cannot build the model {how}")
    yield from (Problem("state-changed", "", f"after create_model {how}, {line}") for line in changed)
    if isinstance(inside, Exception):
        yield raised(inside, f"create_model {how}")
        return
    want, got = (trial.family.canonical(case, dict(model.state_dict())) for model in (outside, inside))
    for name in sorted(trial.created.keys() & want.keys()):
        yield from _same_parameter(trial, name, want[name], got.get(name), default)


def _same_parameter(
    trial: Trial, name: str, want: Tensor, got: Tensor | None, default: torch.dtype
) -> Iterator[Problem]:
    """Problems of a tensor of the model inside, which may have the ``default`` dtype there, against that of the one outside."""
    how = ambient.CODE[trial.case.ambient][0]
    if got is None:
        yield Problem("missing-key", name, f"{name} is missing inside {how}")
    elif got.device != want.device:
        yield Problem("device", name, f"{name} is on {got.device} inside {how}, on {want.device} otherwise")
    elif got.dtype not in (want.dtype, default):
        yield Problem("dtype", name, f"{name} is {got.dtype} inside {how}, {want.dtype} otherwise")
    else:
        coarser = max(got.dtype, want.dtype, key=lambda dtype: torch.finfo(dtype).eps if dtype.is_floating_point else 0)
        bound = 2 * trial.created_bound(name)
        if got.dtype != want.dtype and trial.case.dtype == "float64":  # rounded into either model
            bound = bound + bounds.rounding(want.cpu(), coarser)
        yield from trial.compare(name, got.to(coarser), want.to(coarser), bound)


def _can_build(trial: Trial) -> bool:
    """Whether the case's model can be built in the ambient state that holds."""
    try:
        build(trial.family.name, tuple(sorted(trial.case.arch.items())), trial.case.destination, trial.device)
    except Exception:
        return False
    return True
