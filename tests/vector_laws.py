"""The laws of docs/vectors.md in NumPy, written from that page alone, so that the page is enough to implement them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np


def axis(old: int, new: int, mode: str, antialias: bool, align_corners: bool) -> np.ndarray:
    """The matrix of an axis, ``(new, old)``."""
    if old == new:
        return np.eye(old)
    if align_corners:
        at = np.arange(new) * (old - 1) / (new - 1) if new > 1 else np.zeros(1)
    else:
        at = (np.arange(new) + 0.5) * old / new - 0.5
    if antialias:
        weight = _kernel((np.arange(old) - at[:, None]) / max(old / new, 1), mode, -0.5)
        return weight / weight.sum(axis=1, keepdims=True)
    out = np.zeros((new, old))
    for row, centre in enumerate(at):
        for sample in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            out[row, min(max(sample, 0), old - 1)] += _kernel(sample - centre, mode, -0.75)
    return out


def _kernel(x: Any, mode: str, a: float) -> Any:
    x = np.abs(x)
    if mode == "bilinear":
        return np.maximum(1 - x, 0)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x <= 2, far, 0))


def offsets(old: int, new: int) -> np.ndarray:
    """The matrix of an axis of a bias table, ``(new, old)``."""
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old // 2)) / (1 - ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    beyond = np.cumsum(ratio ** np.arange(old // 2))
    at = np.concatenate([-beyond[::-1], [0], beyond])
    wanted = np.arange(-(new // 2), new // 2 + 1)
    return np.stack([np.interp(wanted, at, one) for one in np.eye(old)], axis=1)  # which cuts to the range there is


def resample(array: np.ndarray, how: dict[str, Any], interpolation: dict[str, Any]) -> np.ndarray:
    """A tensor of the checkpoint, in the layout of the expected ones, resampled as ``resampled`` says; float64."""
    array, law, kept = array.astype(np.float64), how["law"], how["kept_rows"]
    old, new = how["source_size"], how["destination_size"]
    if law == "pi-resize":
        rows, cols = (np.linalg.pinv(axis(o, n, **interpolation | {"align_corners": False})) for o, n in zip(old, new))
        return rows.T @ array @ cols
    if law == "axis-table":
        return axis(2 * old[0] - 1, 2 * new[0] - 1, "bilinear", False, False) @ array
    if law == "bias-table":
        sizes = [(2 * o - 1, 2 * n - 1) for o, n in zip(old, new)]
        matrices, head, tail = (
            [offsets(*pair) for pair in sizes],
            array[: len(array) - kept],
            array[len(array) - kept :],
        )
        return np.concatenate([_image(head, [o for o, _ in sizes], matrices), tail])
    sides = [max(new)] * 2 if law == "window" else new
    image = _image(array[0, kept:], old, [axis(o, n, **interpolation) for o, n in zip(old, sides)])
    image = image.reshape(*sides, -1)[: new[0], : new[1]].reshape(prod(new), -1)
    return np.concatenate([array[0, :kept], image])[None]


def _image(rows: np.ndarray, old: list[int], matrices: list[np.ndarray]) -> np.ndarray:
    """Rows read as an image, resized on both sides, as rows."""
    image = np.einsum("ai,bj,ijd->abd", *matrices, rows.reshape(*old, -1))
    return image.reshape(-1, image.shape[-1])
