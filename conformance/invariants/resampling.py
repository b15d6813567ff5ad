"""Invariants of resampling that follow from the definition of the resize operator, without a second loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..cases.regimes import relation
from ..families.base import KERNEL
from ..reference.resize import Resampling, axis_matrix, axis_pinv
from ..trials import bounds
from ..trials.expectation import GRID
from ..trials.problems import Problem, largest_difference, value_problem
from ..trials.trial import Trial
from .registry import invariant, unless


def _patch(trial: Trial) -> str:
    return relation(trial.case.source.patch_size, trial.case.destination.patch_size)


def _images(trial: Trial) -> tuple[str, ...]:
    """Names of the geometry-dependent tensors that are resampled like images, unlike relative position tables."""
    return tuple(name for name in trial.geometric if name in (KERNEL, GRID))


def _operators(trial: Trial, of: Callable[[int, int, Resampling], Tensor]) -> tuple[Tensor, Tensor]:
    sizes = zip(trial.case.source.patch_size, trial.case.destination.patch_size)
    rows, cols = (of(old, new, trial.resampling.of_kernels) for old, new in sizes)
    return rows, cols


def _adjoint_residual(trial: Trial) -> tuple[Tensor, Tensor, float]:
    """``B^T w_new - w`` for each kernel, the loaded kernel in float64, and the spectral norm of ``B``."""
    kernel = trial.tensor(KERNEL).to(torch.float64)
    rows, cols = _operators(trial, axis_matrix)
    residual = rows.T @ kernel @ cols - trial.truth[KERNEL].to(torch.float64)
    norm = bounds.matrix_norm(
        trial.case.source.patch_size, trial.case.destination.patch_size, trial.resampling.of_kernels
    )
    return residual, kernel, norm


def _judge(trial: Trial, residual: Tensor, bound: Tensor, kind: str, law: str) -> Iterator[Problem]:
    size = torch.linalg.vector_norm(residual, dim=(-2, -1), keepdim=True)
    fraction = bounds.fraction(size, bound) if bool((size != 0).any()) else 0.0
    trial.fractions.append(fraction)
    if fraction > 1:
        worst = value_problem(kind, f"{law} of {KERNEL}", size, torch.zeros_like(size), bound)
        got, want = trial.tensor(KERNEL), trial.expected[KERNEL]
        yield Problem(kind, KERNEL, worst.message, worst.fraction, got, want, largest_difference(got, want))


def _minimum_norm(trial: Trial, kernel: Tensor) -> Iterator[Problem]:
    """Problems of a new kernel outside the range of ``B``: such a part answers no resized patch."""
    rows, cols = (m @ p for m, p in zip(_operators(trial, axis_matrix), _operators(trial, axis_pinv)))
    bound = trial.bound(KERNEL)
    yield from _judge(
        trial, kernel - rows @ kernel @ cols.T, bound, "not-minimum-norm", "the part outside the range of B"
    )


@invariant(
    statement="A grown kernel answers a resized patch as the old kernel answered the patch: `<B x, w_new> = <x, w>` for all x.",
    catches="kernels interpolated like images, the pseudo-inverse of the transpose, a wrong kernel or cut-off.",
    regimes=("patch-grow", "patch-non-square"),
    applies=unless(lambda t: _patch(t) == "grow", "the identity is exact only when the patch grows"),
)
def pi_adjoint(trial: Trial) -> Iterator[Problem]:
    residual, kernel, norm = _adjoint_residual(trial)
    yield from _judge(trial, residual, norm * trial.bound(KERNEL), "adjoint", "<B x, w_new> - <x, w>")
    yield from _minimum_norm(trial, kernel)


@invariant(
    statement=(
        "A kernel that shrinks along some axis is the least-squares solution of minimum norm: B (B^T w_new - w) = 0 "
        "and w_new in the range of B."
    ),
    catches="pseudo-inverses with a wrong rank cut-off (timm before 1.0.16), kernels averaged or cropped.",
    regimes=("patch-shrink", "patch-mixed", "patch-non-square"),
    applies=unless(lambda t: _patch(t) in ("shrink", "mixed"), "the patch does not shrink"),
)
def pi_normal_equations(trial: Trial) -> Iterator[Problem]:
    residual, kernel, norm = _adjoint_residual(trial)
    rows, cols = _operators(trial, axis_matrix)
    bound = norm**2 * trial.bound(KERNEL)
    yield from _judge(trial, rows @ residual @ cols.T, bound, "normal-equations", "B (B^T w_new - w)")
    yield from _minimum_norm(trial, kernel)


# -- position grids ----------------------------------------------------------------------------------------------------

_resampled = unless(lambda t: not t.case.native, "nothing is resampled at the native geometry")


def _resampled_either_way(trial: Trial) -> str | None:
    return _resampled(trial) or trial.flipped.undecidable


@invariant(
    statement=(
        "A constant position grid stays that constant, and a grown kernel keeps its answer to a constant image: "
        "the rows of every resize matrix sum to one."
    ),
    catches="interpolation weights that are not normalised, padding at the edges, prefix rows mixed into the grid.",
    regimes=("grid-grow", "grid-shrink", "grid-mixed", "patch-grow"),
    applies=_resampled,
)
def constant_preserved(trial: Trial) -> Iterator[Problem]:
    state, loaded = trial.constant
    got = trial.loaded_tensors(loaded, _images(trial))
    source, destination = trial.case.source, trial.case.destination
    if source.grid_size != destination.grid_size and GRID in got:
        rows = trial.prefix_rows
        want = state[GRID][:, -1:].expand(-1, destination.tokens, -1)
        yield from trial.compare(GRID, got[GRID][:, rows:], want, trial.bound(GRID, state)[:, rows:], "constant")
    if _patch(trial) == "grow":
        pixels = destination.patch_size[0] * destination.patch_size[1]
        new, old = (t.to(torch.float64).sum(dim=(-2, -1), keepdim=True) for t in (got[KERNEL], state[KERNEL]))
        yield from trial.compare(KERNEL, new, old, pixels**0.5 * trial.bound(KERNEL, state), "constant")


@invariant(
    statement="Loading is linear in the tensors it resamples: the load of a sum is the sum of the loads.",
    catches="clipping, normalising by content, half-precision intermediates, caches keyed by shape alone.",
    regimes=("patch-grow", "patch-shrink", "grid-grow", "grid-shrink"),
    applies=unless(
        lambda t: not t.case.native and t.case.dtype == "float32",
        "needs a resampled float32 checkpoint (half-precision sums are not exact)",
    ),
)
def linear(trial: Trial) -> Iterator[Problem]:
    names = trial.geometric
    second, loaded = trial.constant
    parts = [trial.loaded_tensors(trial.base, names), trial.loaded_tensors(loaded, names)]
    total = {k: (v + second[k] if k in names else v) for k, v in trial.truth.items()}
    for name, got in trial.loaded_tensors(trial.load(total), names).items():
        want = parts[0][name].to(torch.float64) + parts[1][name].to(torch.float64)
        # A loader may resample a tensor that needs no resampling. Another invariant judges that, so the bound allows it here.
        bound = sum(trial.resampling_bound(name, s) for s in (trial.truth, second, total))
        bound = bound + bounds.rounding(want, torch.float32)
        rows = trial.prefix_rows if name == GRID else 0  # prefix rows are not resampled: prefix-tokens-kept judges them
        got, want, bound = (t[:, rows:] for t in (got, want, bound.expand(want.shape)))
        yield from trial.compare(name, got, want, bound, "not-linear")


@invariant(
    statement="Exchanging height and width before loading equals exchanging them after.",
    catches="height and width swapped, a grid assumed square, one axis asked about or resampled as the other is.",
    regimes=("patch-non-square", "destination-grid-non-square", "grid-mixed", "patch-mixed"),
    applies=_resampled_either_way,
)
def transpose_symmetric(trial: Trial) -> Iterator[Problem]:
    yield from trial.compare_flipped(_images(trial))


@invariant(
    statement="Class and register tokens, and their rows of the position embedding, come through bit for bit.",
    catches="prefix rows resampled as if they were patches, a wrong number of prefix tokens, a folded row forgotten.",
    regimes=("prefix-1", "prefix-1+R", "grid-grow", "grid-shrink", "half-precision"),
    applies=unless(lambda t: t.prefix_tokens > 0, "the checkpoint has no prefix tokens"),
)
def prefix_tokens_kept(trial: Trial) -> Iterator[Problem]:
    for name in ("cls_token", "dist_token", "reg_token"):
        if name in trial.truth:
            yield from trial.compare(name, trial.tensor(name), trial.truth[name], 0.0)
    if trial.prefix_rows and GRID in trial.truth:
        rows = trial.prefix_rows
        yield from trial.compare(GRID, trial.tensor(GRID)[:, :rows], trial.truth[GRID][:, :rows], 0.0)
