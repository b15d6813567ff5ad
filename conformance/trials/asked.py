"""What a correct load puts into a model that was asked for with other options than the checkpoint's (``Case.asked``)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..cases.case import Case
from ..families.base import Arch
from . import bounds
from .expectation import GRID, Expectation

# A token of the prefix by its tensor and its row in it.
Token = tuple[str, int]
_REGISTERS = "reg_token"
_TABLE = "relative_position_bias_table"


def prefix_tokens(arch: Arch) -> list[Token]:
    """The prefix tokens of a model in their order."""
    single = [("cls_token", 0)] * arch["class_token"] + [("dist_token", 0)] * arch.get("dist_token", False)
    return single + [(_REGISTERS, n) for n in range(arch["reg_tokens"])]


def position_rows(arch: Arch) -> list[Token]:
    """The prefix tokens that have a row of ``pos_embed``."""
    none = arch.get("no_embed_class") or arch.get("use_naflex") or arch.get("pos_embed") == "none"
    return [] if none else prefix_tokens(arch)


def moves_position_rows(case: Case) -> bool:
    """Whether the checkpoint and the model asked for have positions for other prefix tokens."""
    has_positions = "none" not in (case.arch.get("pos_embed"), case.model_arch.get("pos_embed"))
    return has_positions and position_rows(case.arch) != position_rows(case.model_arch)


def trained_tensors(expected: Expectation) -> dict[str, tuple[Tensor, Tensor]]:
    """The tensors of :attr:`.Expectation.created` as the model asked for holds them, with their bounds; NaN means any value.

    A row of ``pos_embed`` for a prefix token that has none in the model is added to the token. A model of more register tokens
    has those of the checkpoint first. BEiT's fine-tuning gives the table that all blocks share to each block (``microsoft/unilm``
    ``beit/run_class_finetuning.py``). What the format does not store is not trained.
    """
    case = expected.case
    stored = expected.created.keys() - expected.family.implied(case.arch)
    found = {name: (expected.created[name], expected.created_bound(name)) for name in sorted(stored)}
    old, new = position_rows(case.arch), position_rows(case.model_arch)
    if GRID in found and moves_position_rows(case):
        found |= _with_rows(found, old, new, prefix_tokens(case.model_arch))
    if (case.arch.get("tables"), case.model_arch.get("tables")) == ("shared", "block"):
        table = found.pop(f"rel_pos_bias.{_TABLE}")
        found |= {f"blocks.{i}.attn.{_TABLE}": table for i in range(case.model_arch["depth"])}
    more = case.model_arch["reg_tokens"] - case.arch["reg_tokens"]
    if _REGISTERS in found and more > 0:
        registers, bound = found[_REGISTERS]
        found[_REGISTERS] = torch.cat([registers, _any_value(registers, more)], dim=1), bound
    return found


def _with_rows(
    found: dict[str, tuple[Tensor, Tensor]], old: list[Token], new: list[Token], tokens: list[Token]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Positions with the rows of ``new`` in place of those of ``old``, and the ``tokens`` to which others are added."""
    positions, bound = found[GRID]
    rows = dict(zip(old, positions[0, : len(old)]))
    first = [rows[token][None, None] if token in rows else _any_value(positions, 1) for token in new]
    grid_bound = bound[:, len(old) :] if bound.ndim else bound.expand(1, 1, 1)
    no_error = grid_bound.new_zeros(1, len(new), 1).expand(-1, -1, grid_bound.shape[2])
    grid = positions[:, len(old) :]
    changed = {
        GRID: (
            torch.cat([*first, grid], dim=1),
            torch.cat([no_error, grid_bound.expand(-1, grid.shape[1], -1)], dim=1),
        )
    }
    for (name, n), row in rows.items():
        if (name, n) in tokens and (name, n) not in new:
            total = changed.get(name, found[name])[0].clone()
            total[0, n] += row
            changed[name] = total, bounds.rounded_once(total, total.dtype)
    return changed


def _any_value(like: Tensor, rows: int) -> Tensor:
    return like.new_full((1, rows, like.shape[2]), float("nan"))


def telling(tensors: Mapping[str, Tensor]) -> set[str]:
    """The names of the tensors that say whether anything of a checkpoint is in a model.

    Models begin with biases of 0 and weights of norms of 1, so such a tensor of a checkpoint says nothing, unless all are such.
    """
    return {name for name, tensor in tensors.items() if tensor.unique().tolist() not in ([0], [1])} or set(tensors)
