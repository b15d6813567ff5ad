"""The fakes of ``tests.fakes`` that take what does not fit, or do not leave things as they were when they refuse."""

from __future__ import annotations

from math import prod

import torch

from timm_conformance import reference
from timm_conformance.reference import loader as corrected

from .fakes_resampling import loader_with


def _before_looking(checkpoint, model, mend):
    """The perfect loader that makes ``mend(state, destination)`` of what it decoded before it compares any name."""
    look = corrected.for_model
    return loader_with(checkpoint, model, for_model=lambda state, into: look(mend(state, into), into))


def fills_what_is_missing(checkpoint, model):
    """Puts zeros where the checkpoint has nothing."""
    zeros = lambda into: {name: torch.zeros(shape) for name, shape in into.shapes.items()}  # noqa: E731
    return _before_looking(checkpoint, model, lambda state, into: zeros(into) | state)


def drops_what_is_left_over(checkpoint, model):
    """Takes the tensors the model has a name for, and none besides."""
    known = lambda state, into: {name: tensor for name, tensor in state.items() if name in into.shapes}  # noqa: E731
    return _before_looking(checkpoint, model, known)


def takes_what_fits(checkpoint, model):
    """Takes the tensors the model has a name for, and puts zeros where the checkpoint has nothing, as if nothing were strict."""

    def fitted(state, into):
        zeros = {name: torch.zeros(shape) for name, shape in into.shapes.items()}
        return zeros | {name: tensor for name, tensor in state.items() if name in zeros}

    return _before_looking(checkpoint, model, fitted)


def reshapes_what_does_not_fit(checkpoint, model):
    """Makes a tensor of as many numbers fit."""
    look = corrected.complete

    def complete(state, into):
        sizes = {name: into.shapes[name] for name, t in state.items() if t.numel() == prod(into.shapes[name])}
        return look(state | {name: state[name].reshape(size) for name, size in sizes.items()}, into)

    return loader_with(checkpoint, model, complete=complete)


def writes_before_it_refuses(checkpoint, model):
    """Changes the model on its way to a refusal."""
    try:
        return reference.load_state_dict(checkpoint, model)
    except reference.LoadError:
        with torch.no_grad():
            next(model.parameters()).fill_(0.25)
        raise


def borrows_a_tensor(checkpoint, model):
    """Takes the first tensor out of the caller's dict, and puts it back when all is done."""
    given = checkpoint
    while wrapper := next((w for w in ("model", "state_dict") if w in given), None):
        given = given[wrapper]
    first, whole = next(iter(given)), dict(given)
    given[first] = None
    state = reference.load_state_dict(whole, model)
    given[first] = whole[first]
    return state
