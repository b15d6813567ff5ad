"""The rows of ``pos_embed`` that belong to prefix tokens and not to patches.

A position of a class or register token is a constant that is added to the token. A NaFlexViT's own positions cover patches only,
so its loader adds the two. Any other model must have such rows where the checkpoint has them.

Source: ``huggingface/pytorch-image-models`` ``timm/models/naflexvit.py: checkpoint_filter_fn``.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt, prod

from torch import Tensor

from .errors import LoadError

_GRID = "pos_embed"
_TOKENS = ("cls_token", "reg_token")
_ALL_TOKENS = ("cls_token", "dist_token", "reg_token")


def stored_rows(
    state: Mapping[str, Tensor],
    model_grid: tuple[int, int],
    claimed: tuple[int, int] | None,
    stored: bool | None = None,
) -> tuple[int, ...]:
    """Number of rows of ``pos_embed`` for each prefix token tensor: none, or one row for each token.

    ``stored`` says whether the checkpoint has them; None if the format does not decide it. Then three rules are tried in order:
    the remaining rows fill the grid of the declared image size, or the model's grid, or a square. The first rule that fits
    exactly one reading decides. Raises :class:`LoadError` if no rule does.
    """
    counts = tuple(state[k].shape[1] if k in state else 0 for k in _TOKENS)
    total = state[_GRID].shape[1]
    if stored is not None or not any(counts):
        return counts if stored else (0, 0)
    choices = (total, total - sum(counts))
    rules = (
        lambda n: claimed is not None and claimed[0] * claimed[1] == n,
        lambda n: model_grid[0] * model_grid[1] == n,
        lambda n: isqrt(max(n, 0)) ** 2 == n,
    )
    for rule in rules:
        fits = [n for n in choices if n > 0 and rule(n)]
        if len(fits) == 1:
            return counts if fits[0] < total else (0, 0)
    raise LoadError(
        f"{total} position tokens, with or without those of {sum(counts)} prefix tokens, do not say their grid: "
        "pass input_size=(height, width) of the checkpoint"
    )


def fold(state: Mapping[str, Tensor], counts: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """The state with the prefix rows of its positions added to its prefix tokens, and the remaining positions.

    Raises :class:`LoadError` if tokens and rows have different shapes.
    """
    out, position = dict(state), state[_GRID]
    for name, count in zip(_TOKENS, counts):
        if count:
            rows = position[:, :count]
            if out[name].shape != rows.shape:  # a sum would broadcast a token of one channel
                found = " and ".join(str(tuple(t.shape)) for t in (out[name], rows))
                raise LoadError(f"{name} and its rows of {_GRID} have shapes {found}, which do not add up")
            out[name] = out[name] + rows
            position = position[:, count:]
    return out, position


def check(state: Mapping[str, Tensor], rows: int, claimed: tuple[int, int] | None) -> None:
    """Raise :class:`LoadError` if ``pos_embed`` does not begin with the ``rows`` that the model has for its prefix tokens.

    A checkpoint has a row for each prefix token or none. The declared image size tells which, if one reading alone fits it.
    """
    stored, total = sum(state[k].shape[1] for k in _ALL_TOKENS if k in state), state[_GRID].shape[1]
    if rows not in (0, stored):
        raise LoadError(f"the checkpoint has {stored} prefix tokens, the model has positions for {rows}")
    if claimed and prod(claimed) == total - (stored - rows) != total - rows:
        having, other = ("checkpoint", "model") if stored > rows else ("model", "checkpoint")
        raise LoadError(
            f"{total} position tokens: {_GRID} of the {having} begins with rows for its prefix tokens, that of the {other} does "
            "not; create the model with the checkpoint's no_embed_class, or pass the checkpoint's input_size=(height, width)"
        )
