"""Invariants of side effects: a loader leaves its input alone, gives the same again, and keeps dtype, device and finiteness."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import wrappers
from ..targets.models import Unsupported, all_changed
from ..trials.acceptance import fits
from ..trials.loaded import Blocked
from ..trials.problems import Problem, exact_differences
from ..trials.trial import Trial
from .end_to_end import as_saved
from .registry import Applies, both, few_blocks, invariant, unless

_IN_MEMORY = unless(
    lambda t: not t.family.in_place, "the loader reads a file straight into the model: there is no dict to leave alone"
)


@invariant(
    statement="The caller's checkpoint is the same after loading: keys, their order, values, at every level of nesting.",
    catches="keys popped from or added to the caller's dict, tensors edited in place.",
    regimes=("native", "resampled", "wrapped"),
    applies=_IN_MEMORY,
)
def input_unmodified(trial: Trial) -> Iterator[Problem]:
    _ = trial.state  # a load that raises may stop half-way, which strict-load reports
    before = trial.to_device(wrappers.wrap(trial.upstream, trial.case.wrapper))
    yield from checkpoint_changes(before, trial.base.checkpoint_after)


def checkpoint_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Problem]:
    """Differences in a caller's checkpoint before and after a load, at every level of nesting."""
    yield from (Problem("key-removed", k, f"{k} was removed from the caller's dict") for k in before if k not in after)
    yield from (Problem("key-added", k, f"{k} was added to the caller's dict") for k in after if k not in before)
    kept = [k for k in before if k in after]
    if kept != [k for k in after if k in before]:
        yield Problem("order-changed", "", "the caller's keys are in another order")
    for key in kept:
        old, new = before[key], after[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from checkpoint_changes(old, new)
        elif isinstance(old, Tensor) and not (isinstance(new, Tensor) and _identical(old, new)):
            yield Problem("value-changed", key, f"{key} was changed in the caller's dict")


def _identical(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


@invariant(
    statement="Loading the same checkpoint object a second time gives the same result.",
    catches="state left behind in the checkpoint or in the loader.",
    regimes=("native", "resampled", "prefix-1+R"),
)
def repeatable(trial: Trial) -> Iterator[Problem]:
    first = trial.state
    again = trial.convert(trial.base.checkpoint_after)
    if not again.ok:
        yield again.problem("the second load")
    else:
        yield from exact_differences(first, again.state)


@invariant(
    statement="Loading the result again into the same model changes nothing: a model's own checkpoint is a fixed point.",
    catches="conversions applied twice, resampling of a grid that already fits, a fixed point missed when not square.",
    regimes=("native", "resampled", "destination-grid-non-square"),
    applies=_IN_MEMORY,
)
def idempotent(trial: Trial) -> Iterator[Problem]:
    state, destination = trial.state, trial.case.destination
    wrong = [k for k, v in trial.expected.items() if k not in state or state[k].shape != v.shape]
    if wrong:
        raise Blocked("the state dict does not fit the model")
    again = trial.convert(trial.to_device(trial.raw), source=destination)
    if not again.ok:
        yield again.problem("loading the result again")
    else:
        yield from exact_differences(state, again.state)


@invariant(
    statement="Every loaded tensor has the checkpoint's dtype.",
    catches="float32 intermediates handed out, tensors created without the checkpoint's dtype.",
    regimes=("float32", "float16", "bfloat16", "float64", "resampled"),
    applies=_IN_MEMORY,
)
def dtype_kept(trial: Trial) -> Iterator[Problem]:
    for name, tensor in trial.state.items():
        want = trial.truth[name].dtype if name in trial.truth else getattr(torch, trial.case.dtype)
        if tensor.dtype != want:
            yield Problem("dtype", name, f"{name} is {tensor.dtype}, the checkpoint is {want}")


@invariant(
    statement="Every loaded tensor is on the checkpoint's device; the meta device included, at the native geometry.",
    catches="tensors created on the CPU, device-less constants, round trips through NumPy.",
    regimes=("native",),
    applies=both(
        unless(
            lambda t: (t.case.native or t.device != "cpu") and not t.family.in_place,
            "on the CPU alone a device cannot get lost: meta needs a native case, and no file can be on it",
        ),
        few_blocks,
    ),
)
def device_kept(trial: Trial) -> Iterator[Problem]:
    _ = trial.state
    trials = [trial] + ([trial.on_meta()] if trial.case.native else [])
    for each in trials:
        if not each.base.ok:
            yield each.base.problem(f"loading on {each.device}")
            continue
        for name, tensor in each.state.items():
            if tensor.device.type != torch.device(each.device).type:
                yield Problem("device", name, f"{name} is on {tensor.device}, the checkpoint on {each.device}")


@invariant(
    statement="Finite tensors load into finite tensors.",
    catches="overflow in half precision, pseudo-inverses that keep noise, division by zero.",
    regimes=("native", "patch-mixed", "half-precision"),
)
def finite(trial: Trial) -> Iterator[Problem]:
    for name, tensor in trial.state.items():
        if not bool(torch.isfinite(tensor).all()):
            yield Problem("not-finite", name, f"{name} holds NaN or Inf")


def _trained(trial: Trial, model: nn.Module, checkpoint: Mapping[str, Any], how: str) -> Iterator[Problem]:
    """Problems of a ``checkpoint`` that changes when a ``model`` that was loaded from it is changed in place."""
    before = trial.to_device(checkpoint)
    with all_changed(model):
        found = list(checkpoint_changes(before, checkpoint))
    for problem in found:
        yield dataclasses.replace(problem, kind="shared", message=f"{problem.message} by training the model {how}")


def _one_in(count: int) -> Applies:
    return unless(
        lambda t: t.case.turn % count == 0,
        f"one in {count} cases is enough: what a loader shares does not depend on numbers",
    )


@invariant(
    statement=(
        "Training the model never changes the caller's checkpoint: after `model.load_state_dict` of the result, they share no "
        "memory. `load_state_dict(assign=True)` is the caller's own wish to share it."
    ),
    catches="parameters of the model replaced by tensors of the checkpoint.",
    regimes=("native", "resampled"),
    applies=both(both(_IN_MEMORY, few_blocks), _one_in(3)),
)
def shares_no_memory(trial: Trial) -> Iterator[Problem]:
    _ = trial.state
    model, checkpoint = trial.model(), trial.to_device(wrappers.wrap(trial.upstream, trial.case.wrapper))
    state = trial.loader.convert(trial.family, trial.case.arch, checkpoint, model)
    if not fits(model, state):
        raise Blocked("the state dict does not fit the model")
    model.load_state_dict(state)
    yield from _trained(trial, model, checkpoint, "after load_state_dict")


@invariant(
    statement=(
        "Training a model from `create_model(..., pretrained_cfg_overlay=dict(state_dict=...))` never changes the caller's "
        "state dict."
    ),
    catches="parameters of the new model that are tensors of the checkpoint.",
    regimes=("native", "resampled"),
    applies=both(both(_IN_MEMORY, few_blocks), both(_one_in(6), as_saved)),
    not_on_functions=("native", "resampled"),
)
def create_model_shares_no_memory(trial: Trial) -> Iterator[Problem]:
    checkpoint = trial.to_device(trial.upstream)
    try:
        model = trial.loader.create_model(trial.family, trial.case, dict(checkpoint))
    except Unsupported:
        raise
    except Exception as error:
        raise Blocked("create_model does not load the state dict") from error
    yield from _trained(trial, model, checkpoint, "that create_model returned")
