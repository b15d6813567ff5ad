"""Damage to a checkpoint, after which a correct loader refuses it.

Each case has one kind of damage (``Case.damage``); its seed says where. An edit counts as damage only if no checkpoint of the
case's architecture looks like its result at any geometry: the format's rules then read other tensors, or tensors of other
widths. These edits are no damage:

- to remove or change a mask token, or a bias of zeros that the model lacks;
- to remove rows of positions;
- to exchange height and width of a patch kernel.

Values are not damaged: a loader need not look for NaN, Inf or integers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..cases.case import DAMAGES
from ..checkpoints import state_dicts
from ..families.base import KERNEL
from ..reference import Facts, LoadError
from .expectation import GRID, Expectation
from .problems import star_block_numbers

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Damage:
    """One way to damage a checkpoint: a description, the tensor that is damaged, and the damaged checkpoint ``state()``.

    The checkpoint is in the upstream layout, without a wrapper.
    """

    what: str
    tensor: str
    state: Callable[[], State]


def apply_damage(expectation: Expectation) -> tuple[Damage, State]:
    """The damage of a case, and the damaged checkpoint. It is the first edit that counts, from the place that the seed gives."""
    edits = list(EDITS[expectation.case.damage](expectation))
    start = expectation.case.contents.seed // len(DAMAGES) % len(edits)
    return next(effective_damages(expectation, edits[start:] + edits[:start]))


def effective_damages(expectation: Expectation, edits: Iterable[Damage]) -> Iterator[tuple[Damage, State]]:
    """The edits that count as damage, each with the damaged checkpoint.

    An edit to a tensor that a checkpoint may lack does not count.
    """
    meaning = _meaning(expectation, expectation.upstream)
    for edit in edits:
        state, lacking = edit.state(), {k: v for k, v in expectation.upstream.items() if k != edit.tensor}
        needed = edit.tensor not in expectation.upstream or _meaning(expectation, lacking) != meaning
        if needed and _meaning(expectation, state) != meaning:
            yield edit, state


def _meaning(expectation: Expectation, state: State) -> dict[str, tuple[int, ...]] | None:
    """The tensors that the format's rules read from a checkpoint, and their widths; None if the rules refuse it.

    The widths leave out the axes that another geometry changes and the channels of an image, which a caller may choose. Zeros
    that the model has no tensor for are left out, too.
    """
    arch, source = expectation.case.arch, expectation.case.source
    try:
        decoded = expectation.format.decode(state, Facts(arch.get("in_chans", 3), source.patch_size, arch["num_heads"]))
    except LoadError:
        return None
    first = expectation.family.first_conv(arch)
    widths: dict[str, tuple[int, ...]] = {}
    for name, tensor in decoded.items():
        shape: tuple[int, ...] = tuple(tensor.shape)
        if name == KERNEL:
            shape = (tensor.ndim, *(shape[:1] if name == first else shape[:2]))
        elif name == first:
            shape = shape[:1] + shape[2:]
        elif name == GRID:  # a list of tokens or a grid
            shape = (shape[0], shape[-1])
        elif name in expectation.tables:
            shape = shape[1:]
        if name in expectation.truth or bool(tensor.any()):
            widths[name] = shape
    return widths


# -- edits -------------------------------------------------------------------------------------------------------------


def _alike(expectation: Expectation, key: str) -> list[str]:
    """The tensors that are one tensor in the file: those of all blocks if the wrapper stacks blocks."""
    stacked = expectation.case.wrapper.endswith("scan")
    return [k for k in expectation.upstream if star_block_numbers(k) == star_block_numbers(key)] if stacked else [key]


def _without(expectation: Expectation, key: str) -> State:
    gone = _alike(expectation, key)
    return {k: v for k, v in expectation.upstream.items() if k not in gone}


def _with(expectation: Expectation, key: str, change: Callable[[Tensor], Tensor]) -> State:
    return {
        **expectation.upstream,
        **{k: change(expectation.upstream[k]).contiguous() for k in _alike(expectation, key)},
    }


def _along(
    expectation: Expectation, key: str, axis: int, change: Callable[[Tensor, int], Tensor]
) -> Callable[[], State]:
    """A function that makes the checkpoint with one tensor changed along an axis."""
    return lambda: _with(expectation, key, lambda tensor: change(tensor, axis))


def _axes(expectation: Expectation) -> Iterator[tuple[str, int, int]]:
    """Every axis of every tensor, with its length."""
    return ((key, axis, length) for key, t in expectation.upstream.items() for axis, length in enumerate(t.shape))


def _missing(expectation: Expectation) -> Iterator[Damage]:
    for key in expectation.upstream:
        if not key.endswith("num_batches_tracked"):  # torch adds it to old files that lack it
            yield Damage(f"{key} is missing", key, partial(_without, expectation, key))


def _wider(expectation: Expectation) -> Iterator[Damage]:
    for key, axis, length in _axes(expectation):
        what = f"axis {axis} of {key} is {2 * length} long, not {length}"
        yield Damage(what, key, _along(expectation, key, axis, lambda t, n: torch.cat([t, t], n)))


def _cut(expectation: Expectation) -> Iterator[Damage]:
    """Axes cut to one entry, which a copy would broadcast to any length."""
    for key, axis, length in _axes(expectation):
        if length > 1:
            what = f"axis {axis} of {key} is 1 long, not {length}"
            yield Damage(what, key, _along(expectation, key, axis, lambda t, n: t.narrow(n, 0, 1)))


def _transposed(expectation: Expectation) -> Iterator[Damage]:
    """The first two axes exchanged, or the last two, where their lengths differ."""
    for key, axis, length in _axes(expectation):
        shape = tuple(expectation.upstream[key].shape)
        if axis in (0, len(shape) - 2) and len(shape) > axis + 1 and shape[axis + 1] != length:
            what = f"axes {axis} and {axis + 1} of {key} {shape} are exchanged"
            yield Damage(what, key, _along(expectation, key, axis, lambda t, n: t.transpose(n, n + 1)))


def _deeper(expectation: Expectation) -> Iterator[Damage]:
    """The checkpoint of a model with one more block or stage."""
    found = [match for match in (re.match(r"(blocks|layers)\.(\d+)\.", name) for name in expectation.truth) if match]
    which, count = found[-1][1], 1 + max(int(match[2]) for match in found)
    old, new = f"{which}.{count - 1}.", f"{which}.{count}."
    more = {name.replace(old, new, 1): tensor for name, tensor in expectation.truth.items() if name.startswith(old)}
    what = f"the checkpoint has {count + 1} {which}, the model {count}"
    yield Damage(
        what, which, lambda: state_dicts.encode(expectation.family, expectation.case, {**expectation.truth, **more})
    )


EDITS: dict[str, Callable[[Expectation], Iterator[Damage]]] = {
    "missing": _missing,
    "wider": _wider,
    "cut": _cut,
    "transposed": _transposed,
    "deeper": _deeper,
}
