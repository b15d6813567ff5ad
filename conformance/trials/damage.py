"""Damage done to a checkpoint, after which no honest loader may load it.

Each case has one kind of damage (``Case.damage``), done where its seed says. Damage is only what no checkpoint of the case's
architecture can be, at any geometry: the format's rules read other tensors out of it, or tensors of other widths. So a mask
token may be missing, or a bias that means zero, and with it may be anything; rows of positions may be missing, and a patch
kernel may lie on its side. Values are no loader's business: NaN, Inf and integers stay out of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cases.case import DAMAGES
from ..checkpoints import state_dicts
from ..families.base import KERNEL
from ..reference import Facts, LoadError
from .expectation import GRID, Expectation
from .problems import starred

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Damage:
    """One way to damage a checkpoint: in words, the tensor it is done to, and the checkpoint ``state()`` it makes.

    The checkpoint is in the upstream layout, without a wrapper.
    """

    what: str
    tensor: str
    state: Callable[[], State]


def inflict(whole: Expectation) -> tuple[Damage, State]:
    """The damage of a case and the damaged checkpoint: the first edit that is one, from where the case's seed says."""
    edits = list(EDITS[whole.case.damage](whole))
    start = whole.case.contents.seed // len(DAMAGES) % len(edits)
    return next(damages(whole, edits[start:] + edits[:start]))


def damages(whole: Expectation, edits: Iterable[Damage]) -> Iterator[tuple[Damage, State]]:
    """The edits that make something of a checkpoint that it cannot be, with what they make.

    Of a tensor that may be missing, nothing can be made that matters.
    """
    meaning = _meaning(whole, whole.upstream)
    for edit in edits:
        state, lacking = edit.state(), {k: v for k, v in whole.upstream.items() if k != edit.tensor}
        needed = edit.tensor not in whole.upstream or _meaning(whole, lacking) != meaning
        if needed and _meaning(whole, state) != meaning:
            yield edit, state


def _meaning(whole: Expectation, state: State) -> dict[str, tuple[int, ...]] | None:
    """The tensors that the format's rules read out of a checkpoint, and their widths; None where the rules refuse it.

    Left out are the axes that another geometry changes, the channels of an image, which a caller may ask for, and zeros that
    the model has no place for.
    """
    arch, source = whole.case.arch, whole.case.source
    try:
        decoded = whole.format.decode(state, Facts(arch.get("in_chans", 3), source.patch_size, arch["num_heads"]))
    except LoadError:
        return None
    first, widths = whole.family.first_conv(arch), {}
    for name, tensor in decoded.items():
        shape = tuple(tensor.shape)
        if name == KERNEL:
            shape = (tensor.ndim, *(shape[:1] if name == first else shape[:2]))
        elif name == first:
            shape = shape[:1] + shape[2:]
        elif name == GRID:  # a list of tokens or a grid
            shape = (shape[0], shape[-1])
        elif name in whole.tables:
            shape = shape[1:]
        if name in whole.truth or bool(tensor.any()):
            widths[name] = shape
    return widths


# -- edits -------------------------------------------------------------------------------------------------------------


def _alike(whole: Expectation, key: str) -> list[str]:
    """The tensors that are one in the file: those of all blocks, where blocks are stacked."""
    stacked = whole.case.wrapper.endswith("scan")
    return [k for k in whole.upstream if starred(k) == starred(key)] if stacked else [key]


def _without(whole: Expectation, key: str) -> State:
    gone = _alike(whole, key)
    return {k: v for k, v in whole.upstream.items() if k not in gone}


def _with(whole: Expectation, key: str, change: Callable[[Tensor], Tensor]) -> State:
    return {**whole.upstream, **{k: change(whole.upstream[k]).contiguous() for k in _alike(whole, key)}}


def _axes(whole: Expectation) -> Iterator[tuple[str, int, int]]:
    """Every axis of every tensor, with its length."""
    return ((key, axis, length) for key, t in whole.upstream.items() for axis, length in enumerate(t.shape))


def _missing(whole: Expectation) -> Iterator[Damage]:
    for key in whole.upstream:
        if not key.endswith("num_batches_tracked"):  # torch fills it in, for files from before there was one
            yield Damage(f"{key} is missing", key, lambda key=key: _without(whole, key))


def _wider(whole: Expectation) -> Iterator[Damage]:
    for key, axis, length in _axes(whole):
        what = f"axis {axis} of {key} is {2 * length} long, not {length}"
        yield Damage(what, key, lambda k=key, n=axis: _with(whole, k, lambda t: torch.cat([t, t], n)))


def _cut(whole: Expectation) -> Iterator[Damage]:
    """Cut to one entry, which a copy repeats to any length."""
    for key, axis, length in _axes(whole):
        if length > 1:
            what = f"axis {axis} of {key} is 1 long, not {length}"
            yield Damage(what, key, lambda k=key, n=axis: _with(whole, k, lambda t: t.narrow(n, 0, 1)))


def _transposed(whole: Expectation) -> Iterator[Damage]:
    """The first two axes exchanged, or the last two."""
    for key, axis, length in _axes(whole):
        shape = tuple(whole.upstream[key].shape)
        if axis in (0, len(shape) - 2) and len(shape) > axis + 1 and shape[axis + 1] != length:
            what = f"axes {axis} and {axis + 1} of {key} {shape} are exchanged"
            yield Damage(what, key, lambda k=key, n=axis: _with(whole, k, lambda t: t.transpose(n, n + 1)))


def _deeper(whole: Expectation) -> Iterator[Damage]:
    """The checkpoint of a model with one block more, or one stage."""
    found = [match for match in (re.match(r"(blocks|layers)\.(\d+)\.", name) for name in whole.truth) if match]
    which, count = found[-1][1], 1 + max(int(match[2]) for match in found)
    old, new = f"{which}.{count - 1}.", f"{which}.{count}."
    more = {name.replace(old, new, 1): tensor for name, tensor in whole.truth.items() if name.startswith(old)}
    what = f"the checkpoint has {count + 1} {which}, the model {count}"
    yield Damage(what, which, lambda: state_dicts.encode(whole.family, whole.case, {**whole.truth, **more}))


EDITS: dict[str, Callable[[Expectation], Iterator[Damage]]] = {
    "missing": _missing,
    "wider": _wider,
    "cut": _cut,
    "transposed": _transposed,
    "deeper": _deeper,
}
