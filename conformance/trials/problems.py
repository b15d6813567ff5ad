"""Problems: ways in which a loader violates an invariant, each with an identity and a message."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import one_line
from ..targets.scratch import SCRATCH

_TORCH_HOOKS = ("__torch_function__", "__torch_dispatch__")


@dataclass(frozen=True)
class Problem:
    """One way a case violates an invariant. ``kind`` and ``tensor`` are its identity, the message is for people.

    ``fraction`` is the error as a fraction of its bound, where one was compared with a bound. ``got`` and ``want`` are the
    compared tensors, of one shape, and ``at`` is the index where they differ most. ``name`` is the tensor's own name, while
    ``tensor`` is that of all blocks.
    """

    kind: str
    tensor: str
    message: str
    fraction: float | None = None
    got: Tensor | None = field(default=None, compare=False, repr=False)
    want: Tensor | None = field(default=None, compare=False, repr=False)
    at: tuple[int, ...] = field(default=(), compare=False, repr=False)
    name: str = field(default="", init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.tensor)
        object.__setattr__(self, "tensor", star_block_numbers(self.tensor))


def star_block_numbers(name: str) -> str:
    """A tensor's name with ``*`` in place of block numbers, so that all blocks have the same name."""
    return re.sub(r"(\.|encoderblock_)\d+(?=[./])", r"\1*", name)


def raised(error: BaseException, doing: str) -> Problem:
    """An exception of the loader as a problem, identified by its type and by the function that raised it."""
    text = one_line(SCRATCH.sub("", str(error)))
    kind = type(error).__name__
    return Problem(f"raises-{kind}", f"{_raising_function(error)}()", f"{doing} raised {kind}: {text}")


def _raising_function(error: BaseException) -> str:
    """The innermost named function on the traceback that belongs neither to torch nor to the standard library.

    Comprehensions do not count, since newer Pythons have no frame for them. Nor do torch's hooks.
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name not in _TORCH_HOOKS]
    ours = [f.name for f in frames if not _in_library(f.filename) and not f.name.startswith("<")]
    return ours[-1] if ours else "unknown"


def _in_library(filename: str) -> bool:
    standard = filename.startswith(sysconfig.get_paths()["stdlib"]) and "site-packages" not in filename
    return standard or filename.startswith(str(Path(torch.__file__).parent))


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same values, NaN included."""
    if torch.equal(a, b):
        return True
    return torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def value_problem(kind: str, name: str, got: Tensor, want: Tensor, bound: Tensor | float) -> Problem:
    """The problem of a tensor that is not within ``bound``, broadcastable to it, of ``want``; it tells the worst element."""
    exact = [t.to(torch.float64) for t in (got, want)]
    error = (exact[0] - exact[1]).abs()
    strange = ~exact[0].isfinite() & exact[1].isfinite()
    if strange.any():
        at = _index(strange.to(torch.uint8))
        text = f"{name} holds NaN or Inf in {int(strange.sum())} of {strange.numel()} entries"
        return Problem(kind, name, text, None, got, want, at)
    error = error.nan_to_num(0.0)
    allowed = torch.as_tensor(bound, dtype=torch.float64).expand(error.shape)
    must_be_equal = (allowed == 0) & (error > 0)
    at = _index(torch.where(must_be_equal, error, 0.0) if must_be_equal.any() else error / allowed.clamp(min=1e-300))
    told = f"{name} is off by {float(error[at]):.3g}"
    if must_be_equal.any():
        return Problem(kind, name, f"{told}, and has to be equal", None, got, want, at)
    fraction = float((error / allowed.clamp(min=1e-300)).max())
    return Problem(kind, name, f"{told}, rounding allows {float(allowed[at]):.3g}", fraction, got, want, at)


def largest_difference(got: Tensor, want: Tensor) -> tuple[int, ...]:
    """The index where two tensors of one shape differ most."""
    return _index((got.to(torch.float64) - want.to(torch.float64)).abs().nan_to_num(float("inf")))


def _index(worst: Tensor) -> tuple[int, ...]:
    """The index of the largest entry."""
    return tuple(int(i) for i in torch.unravel_index(worst.argmax(), worst.shape)) if worst.ndim else ()


def exact_differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[Problem]:
    """Differences between two state dicts that should agree bit for bit in names, shapes, dtypes and values, in any order."""
    problems = [Problem("missing-key", k, f"{k} is missing") for k in first if k not in second]
    problems += [Problem("unexpected-key", k, f"{k} appears") for k in second if k not in first]
    for k, a in first.items():
        b = second.get(k)
        if b is None:
            continue
        if a.shape != b.shape:
            problems.append(Problem("shape", k, f"{k} is {tuple(b.shape)}, should be {tuple(a.shape)}"))
        elif a.dtype != b.dtype:
            problems.append(Problem("dtype", k, f"{k} is {b.dtype}, should be {a.dtype}"))
        elif not _equal(a.cpu(), b.cpu()):  # device-kept compares devices
            problems.append(value_problem("value", k, b.cpu(), a.cpu(), 0.0))
    return problems
