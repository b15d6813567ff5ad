"""Invariants of relative position tables: biases for each offset between two tokens of a window, resized to another window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from torch import Tensor

from ..families import Family
from ..families.base import no_tables
from ..reference.relative import offsets
from ..trials.problems import Problem
from ..trials.trial import Trial
from .registry import invariant


def _has_tables(family: Family) -> bool:
    return family.tables is not no_tables


def _with_tables(condition: Callable[[Trial, str], bool], reason: str) -> Callable[[Trial], str | None]:
    """An ``applies`` that holds if some table of the case meets ``condition``; ``reason`` says why it does not."""

    def applies(trial: Trial) -> str | None:
        if not trial.tables:
            return "the model has no relative position tables"
        return None if any(condition(trial, name) for name in trial.tables) else reason

    return applies


_resized = _with_tables(lambda t, name: t.changed(name), "no window changes")


def _resized_either_way(trial: Trial) -> str | None:
    return _resized(trial) or trial.flipped.undecidable


def _class_token_rows(trial: Trial, name: str) -> int:
    """Number of rows of a table for the class token, which belong to no offset."""
    return len(trial.truth[name]) - prod(offsets(trial.tables[name][0]))


@invariant(
    statement="A relative position table whose window stays the same comes through bit for bit, whatever happens to the patch.",
    catches="tables resized to their own size, a non-square window taken for a square one, rows in another order.",
    regimes=("native", "patch-grow", "destination-grid-non-square", "half-precision"),
    applies=_with_tables(lambda t, name: not t.changed(name), "every window changes"),
    concerns=_has_tables,
)
def rel_pos_identity(trial: Trial) -> Iterator[Problem]:
    for name in trial.tables:
        if not trial.changed(name):
            yield from trial.compare(name, trial.tensor(name), trial.truth[name], 0.0, "changed")


@invariant(
    statement="The class token's rows of a relative position table come last and bit for bit, whatever the window.",
    catches="the class token's biases interpolated with the others, cut off, or moved to the front.",
    regimes=("grid-grow", "grid-shrink", "half-precision"),
    applies=_with_tables(lambda t, name: _class_token_rows(t, name) > 0, "the tables have no rows for a class token"),
    concerns=_has_tables,
)
def rel_pos_class_rows(trial: Trial) -> Iterator[Problem]:
    for name in trial.tables:
        extra = _class_token_rows(trial, name)
        if extra:
            got, want = trial.tensor(name)[-extra:], trial.truth[name][-extra:]
            yield from trial.compare(name, got, want, 0.0, "class-rows")


def _nearest_offsets(table: Tensor, window: tuple[int, ...]) -> Tensor:
    """The biases of a token for itself and its nearest neighbours: offsets -1, 0 and 1 on each axis longer than 1."""
    sizes = offsets(window)
    grid = table[: prod(sizes)].reshape(*sizes, -1)
    for axis, size in enumerate(sizes):
        grid = grid.narrow(axis, max(size // 2 - 1, 0), min(size, 3))
    return grid


@invariant(
    statement="A token's biases for itself and its nearest neighbours stay what they were, however the window is resized.",
    catches="tables stretched evenly like an image, an offset counted from the wrong end, a centre that moved.",
    regimes=("grid-grow", "grid-shrink"),
    applies=_with_tables(
        lambda t, name: t.changed(name) and all(min(window) > 1 and len(window) == 2 for window in t.tables[name]),
        "no window of two or more tokens a side is resized",
    ),
    concerns=_has_tables,
)
def rel_pos_neighbours(trial: Trial) -> Iterator[Problem]:
    for name, (old, new) in trial.tables.items():
        if min(old) > 1 and min(new) > 1 and len(old) == 2:
            bound = _nearest_offsets(trial.bound(name).expand(trial.expected[name].shape), new)
            got, want = _nearest_offsets(trial.tensor(name), new), _nearest_offsets(trial.truth[name], old)
            yield from trial.compare(name, got, want, bound, "neighbours-moved")


@invariant(
    statement="Exchanging height and width of a relative position table before loading equals exchanging them after.",
    catches="a window assumed square, height and width swapped in the resizing of a table.",
    regimes=("grid-grow", "grid-shrink", "grid-mixed", "destination-grid-non-square"),
    applies=_resized_either_way,
    concerns=_has_tables,
)
def rel_pos_transposed(trial: Trial) -> Iterator[Problem]:
    yield from trial.compare_flipped(trial.tables)


@invariant(
    statement="Every relative position table agrees with the reference's resizing of it, within what float32 rounding allows.",
    catches="another interpolation or spacing of offsets, a wrong source window, tables left at their old size.",
    regimes=("grid-grow", "grid-shrink", "grid-mixed", "destination-grid-non-square", "half-precision"),
    applies=_resized,
    concerns=_has_tables,
)
def rel_pos_agreement(trial: Trial) -> Iterator[Problem]:
    want = {name: trial.expected[name] for name in trial.tables}
    yield from trial.compare_all(trial.state, want, trial.bound)
