"""Rotary embeddings of the reference: rotations, of angles that follow from the token's place."""

from __future__ import annotations

from math import pi

import pytest
import torch

from timm_conformance.reference.rope import half_angles, half_periods, interleaved_angles, rotate_halves, rotate_pairs

ROTATIONS = pytest.mark.parametrize(
    ("rotate", "angles"),
    [
        (rotate_pairs, interleaved_angles((3, 4), 8)),
        (rotate_pairs, interleaved_angles((3, 4), 8, offset=1, column_first=True)),
        (rotate_halves, half_angles((3, 4), 8)),
    ],
    ids=["rows first", "columns first", "halves"],
)


@ROTATIONS
def test_lengths_are_kept(rotate, angles: torch.Tensor) -> None:
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(rotate(x, angles).norm(dim=-1), x.norm(dim=-1))


@ROTATIONS
def test_the_opposite_angles_turn_back(rotate, angles: torch.Tensor) -> None:
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(rotate(rotate(x, angles), -angles), x)


@ROTATIONS
def test_products_depend_on_the_distance_alone(rotate, angles: torch.Tensor) -> None:
    """Tokens of a 3x4 grid one column apart: their product is the same in every row and column."""
    q, k = torch.randn(2, 8, dtype=torch.float64)
    turned = [rotate(v.expand(12, 8), angles).unflatten(0, (3, 4)) for v in (q, k)]
    products = (turned[0][:, 1:] * turned[1][:, :-1]).sum(dim=-1)
    torch.testing.assert_close(products, products[:1, :1].expand(3, 3))


def test_angles_of_eva_follow_the_row_then_the_column_at_the_reference_grid() -> None:
    angles = interleaved_angles((2, 4), 8, reference_grid=(4, 4)).unflatten(0, (2, 4))
    row, column = angles[1, 3, :4], angles[1, 3, 4:]
    torch.testing.assert_close(row, torch.tensor([2.0, 2.0, 0.02, 0.02], dtype=torch.float64))
    torch.testing.assert_close(column, torch.tensor([3.0, 3.0, 0.03, 0.03], dtype=torch.float64))


def test_angles_of_dinov3_are_of_centres_between_minus_one_and_one() -> None:
    angles = half_angles((2, 1), 8)
    want = torch.tensor([-pi, -pi / 10, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(angles[0], want.repeat(2))


def test_angles_are_exact_in_float64() -> None:
    """None of them is a float32: thirds, sevenths, and powers of ten thousand and of a hundred."""
    angles = interleaved_angles((3, 7), 12, reference_grid=(16, 16), offset=0.1)
    for token, (row, column) in enumerate((row, column) for row in range(3) for column in range(7)):
        places = ((row + 0.1) / 3 * 16, (column + 0.1) / 7 * 16)
        want = [place * 10000.0 ** -(n / 3) for place in places for n in range(3) for _ in range(2)]
        assert angles[token].tolist() == pytest.approx(want, rel=1e-14)
    periods = half_periods(12)
    assert periods.tolist() == pytest.approx([100.0 ** (n / 3) for n in range(3)], rel=1e-14)
    halves = half_angles((3, 7), 12)
    for token, (row, column) in enumerate((row, column) for row in range(3) for column in range(7)):
        places = ((row + 0.5) / 3 * 2 - 1, (column + 0.5) / 7 * 2 - 1)
        want = [2 * pi * place / 100.0 ** (n / 3) for place in places for n in range(3)] * 2
        assert halves[token].tolist() == pytest.approx(want, rel=1e-14, abs=1e-14)
