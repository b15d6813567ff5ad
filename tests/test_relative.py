"""Relative position tables: the reference's resizing against NumPy's interpolation and against its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_conformance.reference.relative import (
    _distances,
    offset_matrix,
    offsets,
    resize_axis_table,
    resize_bias_table,
    transpose_bias_table,
)

repeatedly = settings(max_examples=80, deadline=None, database=None, derandomize=True)
SIDES = st.integers(1, 12)
WINDOWS = st.tuples(SIDES, SIDES)


def table(window: tuple[int, int], extra: int = 3, heads: int = 2) -> torch.Tensor:
    rows, cols = offsets(window)
    return torch.randn(rows * cols + extra, heads, generator=torch.Generator().manual_seed(rows * 100 + cols))


def distances(old: int, new: int) -> np.ndarray:
    """Where old offsets lie, the ratio of their steps solved for exactly where the search of the definition can find it."""
    count = old // 2
    coefficients = np.ones(count)
    if count:
        coefficients[-1] -= new // 2
    roots = np.roots(coefficients) if count > 1 else np.array([])
    real = [r.real for r in roots if abs(r.imag) < 1e-9 and r.real > 0]
    low, high = (sum(ratio**k for k in range(count)) - new // 2 for ratio in (1.01, 1.5))
    ratio = 1.01 if low > 0 else 1.5 if high < 0 else real[0] if real else 1.01
    beyond = np.cumsum(ratio ** np.arange(count))
    return np.concatenate([-beyond[::-1], [0.0], beyond])


@repeatedly
@given(old=st.integers(1, 15), new=st.integers(1, 15))
def test_one_axis_is_linear_interpolation_between_a_geometric_progression(old: int, new: int) -> None:
    rows, wanted_rows = 2 * old - 1, 2 * new - 1
    values = np.random.default_rng(old).normal(size=rows)
    wanted = np.interp(np.arange(-(wanted_rows // 2), wanted_rows // 2 + 1), distances(rows, wanted_rows), values)
    got = offset_matrix(rows, wanted_rows).numpy() @ values
    # The definition's search stops at an interval of 1e-6, so the outermost of n steps may lie n^2 times that away.
    np.testing.assert_allclose(got, wanted, atol=2e-6 * rows**2 * np.abs(values).max())


@repeatedly
@given(old=st.integers(1, 15), new=st.integers(1, 15))
def test_the_matrix_interpolates_in_float64_between_the_distances_found(old: int, new: int) -> None:
    rows, wanted_rows = 2 * old - 1, 2 * new - 1
    beyond = np.array(_distances(rows, wanted_rows))
    values = np.random.default_rng(old).normal(size=rows)
    places = np.concatenate([-beyond[::-1], [0.0], beyond])
    wanted = np.interp(np.arange(-(wanted_rows // 2), wanted_rows // 2 + 1), places, values)
    matrix = offset_matrix(rows, wanted_rows)
    assert matrix.dtype == torch.float64
    np.testing.assert_allclose(matrix.numpy() @ values, wanted, rtol=0, atol=1e-12)


@repeatedly
@given(old=WINDOWS, new=WINDOWS)
def test_class_rows_are_kept_and_nearest_neighbours_stay(old: tuple[int, int], new: tuple[int, int]) -> None:
    before = table(old)
    after = resize_bias_table(before, old, new)
    assert after.shape == (offsets(new)[0] * offsets(new)[1] + 3, 2)
    assert torch.equal(after[-3:], before[-3:])
    near = [min(o, n, 2) - 1 for o, n in zip(old, new)]  # how far both windows have neighbours
    cores = []
    for rows, (h, w) in ((before, old), (after, new)):
        grid = rows[:-3].unflatten(0, offsets((h, w)))
        cores.append(grid[h - 1 - near[0] : h + near[0], w - 1 - near[1] : w + near[1]])
    torch.testing.assert_close(*cores)


@repeatedly
@given(old=WINDOWS, new=WINDOWS)
def test_transposing_before_and_after_is_the_same(old: tuple[int, int], new: tuple[int, int]) -> None:
    flipped = resize_bias_table(transpose_bias_table(table(old), old), old[::-1], new[::-1])
    torch.testing.assert_close(transpose_bias_table(flipped, new[::-1]), resize_bias_table(table(old), old, new))


@repeatedly
@given(old=WINDOWS, new=WINDOWS)
def test_rows_of_the_matrix_sum_to_one(old: tuple[int, int], new: tuple[int, int]) -> None:
    ones = torch.ones_like(table(old))
    torch.testing.assert_close(resize_bias_table(ones, old, new), torch.ones(len(table(new)), 2))


def test_the_same_window_gives_the_same_tensor() -> None:
    same = table((3, 4))
    assert resize_bias_table(same, (3, 4), (3, 4)) is same
    axis = torch.randn(5, 4)
    assert resize_axis_table(axis, 3) is axis


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    assert resize_bias_table(table((3, 3)).to(dtype), (3, 3), (4, 2)).dtype == dtype
    assert resize_axis_table(torch.randn(5, 4).to(dtype), 7).dtype == dtype


def test_a_table_of_another_window_is_refused() -> None:
    with pytest.raises(ValueError, match="do not hold the offsets of a 5x5 window"):
        resize_bias_table(table((3, 3)), (5, 5), (3, 3))


def test_one_axis_is_stretched_evenly_by_segment_anything() -> None:
    rows = torch.arange(5.0)[:, None]
    want = torch.nn.functional.interpolate(rows.T[None], size=9, mode="linear")[0].T
    torch.testing.assert_close(resize_axis_table(rows, 5), want)
