"""A checkpoint and a model under comparison, by the names and shapes of their tensors, and what differs between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...reference.destination import KERNEL
from ...targets.architectures import Shapes

Names = Mapping[str, tuple[int, ...]]

BLOCK = re.compile(r"\bblocks\.(\d{1,4})\.")
# What a difference costs. Options that every user sets are nearly free, those that make another architecture are not; a tensor
# that no option explains costs most.
FREE, SIZE, POOLING, BUILD, DEPTH, FOREIGN = 0.01, 0.1, 0.5, 2.0, 4.0, 8.0


@dataclass(frozen=True)
class Difference:
    """One difference between a checkpoint and a model. ``text`` says what the checkpoint has, and what the model has instead.

    ``options`` are the arguments of ``create_model`` that take it away; None if there are none. ``tensors`` is the number of
    tensors that it touches, ``cost`` how far it takes a user from the model asked for.
    """

    text: str
    options: Mapping[str, Any] | None
    tensors: int
    cost: float


@dataclass
class Pair:
    """A checkpoint and a model under comparison.

    Of the names not yet explained, ``missing`` are those that only the model has, ``foreign`` those that only the checkpoint has,
    and ``other`` those of tensors that have another shape in each. A grid of positions is compared as a list.
    """

    have: Names
    model: Shapes
    module: str
    missing: set[str] = field(init=False)
    foreign: set[str] = field(init=False)
    other: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.have = _listed(self.have)
        want = self.want
        self.missing, self.foreign = want.keys() - self.have.keys(), self.have.keys() - want.keys()
        self.other = {k for k in want.keys() & self.have.keys() if want[k] != self.have[k]}

    @cached_property
    def want(self) -> Names:
        """The shapes of the model's tensors."""
        return _listed(self.model.shapes)

    def take(self, missing: Callable[[str], Any], foreign: Callable[[str], Any]) -> int:
        """Count the missing and foreign names that two tests choose, and regard them as explained."""
        gone, extra = {k for k in self.missing if missing(k)}, {k for k in self.foreign if foreign(k)}
        self.missing -= gone
        self.foreign -= extra
        return len(gone) + len(extra)

    def alone(self, pattern: str) -> tuple[bool, int]:
        """Whether the checkpoint has the tensors of a pattern that the model lacks, and how many the two do not share."""
        found = re.compile(pattern)
        has = any(found.fullmatch(k) for k in self.foreign)
        return has, self.take(found.fullmatch, found.fullmatch)


def _listed(shapes: Names) -> Names:
    """The shapes with positions ``(1, height, width, dim)`` as ``(1, height * width, dim)``."""
    grid = shapes.get("pos_embed", ())
    return {**shapes, "pos_embed": (grid[0], grid[1] * grid[2], grid[3])} if len(grid) == 4 else shapes


def num_blocks(shapes: Names) -> int:
    """The number of blocks, of all stages together. A file in pieces counts up to its last block."""
    stages: dict[str, int] = {}
    for name in shapes:
        if found := BLOCK.search(name):
            before = name[: found.start()]
            stages[before] = max(stages.get(before, 0), int(found[1]) + 1)
    return sum(stages.values())


def image_of(pair: Pair, side: int) -> Any:
    """The ``img_size`` of a model with the checkpoint's patch for a square grid or window of ``side`` patches."""
    kernel = pair.have.get(KERNEL, ())
    patch = kernel[2:] if len(kernel) == 4 else pair.model.patch_size
    return as_size(tuple(side * p * s for p, s in zip(patch, pair.model.stride)))


def as_size(size: tuple[int, ...]) -> Any:
    """A size as users write it: one number for a square."""
    return size[0] if len(set(size)) == 1 else tuple(size)
