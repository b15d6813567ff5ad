"""Resampling matrices against torch's own, against the definition, and against the algebra they must obey."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.resizing import resize
from timm_conformance.reference import embeddings
from timm_conformance.reference.embeddings import resample_patch_kernel, resample_position_grid
from timm_conformance.reference.resize import (
    BICUBIC_ANTIALIAS,
    BILINEAR,
    Resampling,
    axis_condition,
    axis_matrix,
    axis_pinv,
    resize_matrix,
)

EPS = torch.finfo(torch.float64).eps
ALL = [
    Resampling("bilinear", antialias=True),
    Resampling("bicubic", antialias=True),
    Resampling("bilinear", antialias=False),
    Resampling("bicubic", antialias=False),
    Resampling("bilinear", antialias=False, align_corners=True),
    Resampling("bicubic", antialias=False, align_corners=True),
]
SIZES = range(2, 49)

quick = settings(
    max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
resamplings = st.sampled_from(ALL)
sizes = st.tuples(st.integers(2, 12), st.integers(2, 12))
short_sizes = st.tuples(st.integers(1, 8), st.integers(1, 8))
seeds = st.integers(0, 999)


def name(how: Resampling) -> str:
    return f"{how.mode}-{'antialias' if how.antialias else 'plain'}{'-corners' if how.align_corners else ''}"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def torch_resize(image: torch.Tensor, new: tuple[int, int], how: Resampling) -> torch.Tensor:
    return F.interpolate(image, new, mode=how.mode, antialias=how.antialias, align_corners=how.align_corners)


def slack(*lengths: int) -> float:
    """Either side knows a sample position to ``eps * length``, and no kernel is steeper than 1.35 (Keys' at 0.6)."""
    return 2 * 1.35 * EPS * max(lengths)


# -- matrices against torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ALL, ids=name)
def test_axis_matrix_is_what_interpolate_does_for_every_size(how: Resampling) -> None:
    worst = 0.0
    for old in SIZES:
        basis = torch.eye(old, dtype=torch.float64)[None, :, :, None].expand(1, old, old, 2).contiguous()
        for new in SIZES:
            theirs = torch_resize(basis, (new, 2), how)[0, :, :, 0].T
            error = float((axis_matrix(old, new, how) - theirs).abs().max())
            assert error <= 1e-12, f"{old} -> {new}: off by {error:.3g}"
            worst = max(worst, error / slack(old, new))
    assert worst <= 1, f"{worst:.3g} times what rounding allows"


@quick
@given(sizes, sizes, resamplings, seeds)
def test_resize_is_what_interpolate_does_in_two_dimensions(old, new, how: Resampling, seed: int) -> None:
    image = normal(seed, 2, 3, *old)
    ours, theirs = resize(image, new, how), torch_resize(image, new, how)
    assert ours.dtype is torch.float64
    # Each pass is off by slack in at most `old` entries a row; the other pass has rows of absolute sum at most 1.5.
    bound = sum(old) * slack(*old, *new) * 1.5 * float(image.abs().max())
    assert float((ours - theirs).abs().max()) <= bound


@quick
@given(sizes, sizes, resamplings, seeds)
def test_kronecker_product_is_the_separable_resize(old, new, how: Resampling, seed: int) -> None:
    image = normal(seed, *old)
    flat = resize_matrix(old, new, how) @ image.flatten()
    assert resize_matrix(old, new, how).shape == (new[0] * new[1], old[0] * old[1])
    bound = EPS * (old[0] * old[1] + old[0] + old[1]) * 1.5**2 * float(image.abs().max())
    assert float((flat.reshape(new) - resize(image, new, how)).abs().max()) <= bound


# -- an axis of length 1 -------------------------------------------------------------------------------------------


def cubic_by_hand(column: list[float], new: int, a: float = -0.5) -> list[float]:
    """The definition when growing: at each centre, samples weighted by Keys' cubic, renormalised at the edges."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    out = []
    for i in range(new):
        centre = (i + 0.5) * len(column) / new
        weights = [kernel(j + 0.5 - centre) for j in range(len(column))]
        out.append(sum(w * v for w, v in zip(weights, column)) / sum(weights))
    return out


COLUMN = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64).reshape(1, 1, 4, 1)


def test_a_column_is_resized_by_the_definition() -> None:
    ours = resize(COLUMN, (8, 1))
    by_hand = torch.tensor(cubic_by_hand([0.0, 1.0, 4.0, 9.0], 8), dtype=torch.float64)
    in_a_wider_image = resize(COLUMN.expand(1, 1, 4, 2), (8, 2))
    bound = slack(8) * float(COLUMN.sum())
    assert float((ours[0, 0, :, 0] - by_hand).abs().max()) <= bound
    assert float((ours - in_a_wider_image[..., :1]).abs().max()) <= bound
    theirs_wider = torch_resize(COLUMN.expand(1, 1, 4, 2).contiguous(), (8, 2), BICUBIC_ANTIALIAS)
    assert float((ours - theirs_wider[..., :1]).abs().max()) <= bound


def test_torch_resizes_a_contiguous_column_wrongly() -> None:
    """Why the reference has matrices of its own; skipped on a torch that computes a column correctly."""
    theirs = torch_resize(COLUMN.contiguous(), (8, 1), BICUBIC_ANTIALIAS)
    if float((theirs - resize(COLUMN, (8, 1))).abs().max()) <= slack(8) * float(COLUMN.sum()):
        pytest.skip(f"torch {torch.__version__} resizes a column of one channel correctly")
    assert torch.equal(theirs, theirs[:, :, :1].expand_as(theirs)), "torch's mistake was a constant column"


# -- algebra -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ALL, ids=name)
def test_every_row_sums_to_one(how: Resampling) -> None:
    for old in range(1, 49):
        for new in range(1, 49):
            sums = axis_matrix(old, new, how).sum(dim=1)
            assert float((sums - 1).abs().max()) <= 4 * EPS * max(old, new), f"{old} -> {new}"


@pytest.mark.parametrize("how", ALL, ids=name)
def test_pinv_obeys_the_moore_penrose_conditions(how: Resampling) -> None:
    for old in range(1, 17):
        for new in range(1, 17):
            a, p = axis_matrix(old, new, how), axis_pinv(old, new, how)
            assert p.shape == (old, new)
            norm_a, norm_p = a.norm(), p.norm()
            # Higham 2002, (3.13): a product of n terms is off by n units of the factors' Frobenius norms. Here there
            # are two products and the decomposition behind p.
            unit = 3 * EPS * (old + new) * norm_a * norm_p
            for what, error, size in (
                ("A P A = A", a @ p @ a - a, norm_a),
                ("P A P = P", p @ a @ p - p, norm_p),
                ("A P symmetric", a @ p - (a @ p).T, 1),
                ("P A symmetric", p @ a - (p @ a).T, 1),
            ):
                assert error.norm() <= unit * size, f"{what}: {old} -> {new}"


def kernel_error(old, new, how: Resampling, weight: torch.Tensor) -> float:
    """float64 rounding of ``w @ pinv(B)`` seen through ``B``."""
    condition = axis_condition(old[0], new[0], how) * axis_condition(old[1], new[1], how)
    norm = float(torch.linalg.vector_norm(weight, dim=(-2, -1)).max())
    return EPS * (sum(old) + sum(new)) * condition**2 * norm


@quick
@given(short_sizes, st.tuples(st.integers(0, 6), st.integers(0, 6)), resamplings, seeds)
def test_growing_a_kernel_keeps_every_response(old, more, how: Resampling, seed: int) -> None:
    """``<B x, w_new> = <x, w>`` for every patch ``x``, that is ``B.T @ w_new = w``."""
    new, how = (old[0] + more[0], old[1] + more[1]), how.of_kernels
    operator = resize_matrix(old, new, how)
    assert torch.linalg.matrix_rank(operator) == old[0] * old[1]
    weight = normal(seed, 2, *old)
    grown = resample_patch_kernel(weight, new, how)
    assert grown.shape == (2, *new)
    error = grown.flatten(1) @ operator - weight.flatten(1)
    assert float(error.abs().max()) <= kernel_error(old, new, how, weight)


@quick
@given(short_sizes, short_sizes, resamplings, seeds)
def test_any_resampled_kernel_solves_the_normal_equations_with_the_least_norm(old, new, how: Resampling, seed) -> None:
    """``B (B.T w_new - w) = 0``, and ``w_new`` lies in the range of ``B``: shrinking and mixed included."""
    how = how.of_kernels
    operator, weight = resize_matrix(old, new, how), normal(seed, 2, *old)
    resampled = resample_patch_kernel(weight, new, how).flatten(1)
    norm = float(torch.linalg.matrix_norm(operator, 2))
    bound = kernel_error(old, new, how, weight)
    residual = (resampled @ operator - weight.flatten(1)) @ operator.T
    assert float(residual.abs().max()) <= bound * norm
    u, s, _ = torch.linalg.svd(operator)
    beyond = u[:, int((s > s[0] * 1e-9).sum()) :]
    smallest = float(s[s > s[0] * 1e-9][-1])
    assert float((resampled @ beyond).abs().max() if beyond.numel() else 0.0) <= bound / smallest


# -- embeddings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (16, 14), (14, 16), (32, 8), (5, 5), (1, 3)])
@pytest.mark.parametrize("how", ALL, ids=name)
def test_the_condition_is_the_norm_of_the_matrix_times_that_of_its_inverse(old: int, new: int, how: Resampling) -> None:
    """In the norm of the largest singular value."""
    norms = [float(torch.linalg.matrix_norm(m(old, new, how), ord=2)) for m in (axis_matrix, axis_pinv)]
    assert axis_condition(old, new, how) == pytest.approx(norms[0] * norms[1], rel=1e-9)


def test_nothing_to_do_returns_the_tensor_itself() -> None:
    kernel, grid = normal(0, 2, 3, 4, 6), normal(0, 1, 1 + 8, 4)
    assert resample_patch_kernel(kernel, (4, 6)) is kernel
    assert resample_position_grid(grid, (2, 4), (2, 4), 1) is grid
    square = grid[:, :4]
    assert embeddings.resample_position_window(square, (2, 2), (2, 2), Resampling()) is square


def test_rows_are_written_where_they_belong_without_a_word() -> None:
    """torch warns of an output of another shape, and writes there all the same."""
    grid = normal(0, 1, 1 + 6, 4, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resample_position_grid(grid, (2, 3), (5, 4), 1).shape == (1, 21, 4)


def assert_multiplied(got: torch.Tensor, law: str, tensor: torch.Tensor, *matrices: torch.Tensor) -> None:
    """In the tensor's dtype: a product of the matrices that was rounded to it once, and in float32 or better on the way."""
    assert got.dtype is tensor.dtype
    exact = torch.einsum(law, tensor.double(), *matrices)
    sizes = torch.einsum(law, tensor.double().abs(), *(m.abs() for m in matrices))
    working = torch.finfo(torch.promote_types(tensor.dtype, torch.float32))
    once = 0 if working.eps == torch.finfo(tensor.dtype).eps else torch.finfo(tensor.dtype).eps / 2 * exact.abs()
    # A dot product of n terms has at most n roundings; so have two in turn, the matrices' own and the result's.
    bound = working.eps / 2 * (sum(m.shape[0] for m in matrices) + 4) * sizes + once
    assert bool(((got.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_and_rounded_once(dtype: torch.dtype) -> None:
    kernel, grid = normal(1, 2, 3, 4, 4, dtype=dtype), normal(1, 1, 2 + 6, 4, dtype=dtype)
    pinvs = [axis_pinv(4, 6), axis_pinv(4, 3)]
    assert_multiplied(resample_patch_kernel(kernel, (6, 3)), "dcij,ia,jb->dcab", kernel, *pinvs)
    got = resample_position_grid(grid, (2, 3), (4, 2), 2)
    assert torch.equal(got[:, :2], grid[:, :2])
    image, new = (t[0, 2:].unflatten(0, shape) for t, shape in ((grid, (2, 3)), (got, (4, 2))))
    assert_multiplied(new, "ijc,ia,jb->abc", image, axis_matrix(2, 4).T, axis_matrix(3, 2).T)


def assert_grid_resized(old, new, prefix: int, how: Resampling, seed: int) -> None:
    """Prefix rows bit for bit, grid rows the two-dimensional operator on them, the input untouched."""
    embed = normal(seed, 1, prefix + old[0] * old[1], 3, dtype=torch.float32)
    before = embed.clone()
    out = resample_position_grid(embed, old, new, prefix, how)
    assert torch.equal(embed, before)
    assert torch.equal(out[:, :prefix], embed[:, :prefix])
    assert_multiplied(out[0, prefix:], "tc,ts->sc", embed[0, prefix:], resize_matrix(old, new, how).T)


@quick
@given(short_sizes, short_sizes, st.integers(0, 5), resamplings, seeds)
def test_grid_rows_are_resized_row_major_and_prefix_rows_stay(old, new, prefix: int, how: Resampling, seed) -> None:
    assert_grid_resized(old, new, prefix, how, seed)


@pytest.mark.parametrize("how", ALL, ids=name)
@pytest.mark.parametrize(("old", "new"), [((2, 8), (4, 4)), ((4, 4), (2, 8)), ((2, 6), (6, 2)), ((1, 4), (2, 2))])
def test_as_many_tokens_in_another_shape_are_resized_too(old, new, how: Resampling) -> None:
    assert_grid_resized(old, new, 1, how, 3)


@pytest.mark.parametrize("tokens", [5, 7, 10])
def test_a_wrong_number_of_tokens_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{tokens - 1} position tokens do not fill a 2x4 grid"):
        resample_position_grid(normal(0, 1, tokens, 4), (2, 4), (4, 4), 1)


@pytest.mark.parametrize(("old", "new"), [(0, 3), (3, 0)])
def test_an_empty_axis_is_refused(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        axis_matrix(old, new)


def test_resampling_refuses_what_is_not_defined() -> None:
    with pytest.raises(ValueError, match="unknown resampling mode 'nearest'"):
        Resampling("nearest")
    with pytest.raises(ValueError, match="align_corners"):
        Resampling(antialias=True, align_corners=True)
    assert Resampling() == BICUBIC_ANTIALIAS
    assert Resampling("bilinear", False, False) == BILINEAR


# -- a block at a time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 150, 1 << 18])
@pytest.mark.parametrize(("old", "new"), [((4, 6), (7, 3)), ((5, 5), (2, 8))], ids=str)
def test_kernels_of_many_blocks_are_resized_as_one(monkeypatch, block, old, new):
    """Whatever fits into a block: the definition, for every kernel; the last block is a smaller one."""
    monkeypatch.setattr(embeddings, "_BLOCK", block)
    weight = normal(1, 5, 3, *old)
    pinvs = (axis_pinv(o, n) for o, n in zip(old, new))
    assert_multiplied(resample_patch_kernel(weight, new), "dcij,ia,jb->dcab", weight, *pinvs)


def test_a_kernel_that_is_no_contiguous_tensor_is_resized_the_same():
    """A checkpoint's tensor may be a view with strides of any order."""
    weight = normal(3, 4, 3, 6, 5).float()
    view = weight.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    assert not view.is_contiguous()
    assert resample_patch_kernel(view, (3, 7)).equal(resample_patch_kernel(weight, (3, 7)))
    assert resample_patch_kernel(view, (3, 7)).is_contiguous()
