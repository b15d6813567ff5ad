"""What training leaves in a state dict that is no part of a model: wrappers inside names, and counters beside the tensors.

Sources, of torch: ``torch/distributed/fsdp/_common_utils.py`` (``_fsdp_wrapped_module``; earlier ``_fpw_module``),
``torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py`` (``_checkpoint_wrapped_module``),
``torch/_dynamo/eval_frame.py`` (``_orig_mod``), ``torch/nn/parallel/distributed.py`` (``module``),
``torch/optim/swa_utils.py`` (``n_averaged``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from .cause import Cause, State
from .keys import LONGEST, few

# What stands inside names. "module" is a name that models have as well, so it counts behind the number of a block alone.
_WRAPPER = re.compile(
    r"(?:(?<=\.)(?:_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module|_orig_mod)|(?:(?<=\.\d)|(?<=\.\d\d))\.module)\."
)
_COUNTERS = {"n_averaged", "num_averaged", "num_updates", "decay", "step", "steps", "global_step", "epoch", "initted"}


@dataclass(frozen=True)
class LeftOut:
    """What was left out of a state dict: ``wrappers`` out of the names of tensors, of which ``renamed`` are, and ``counters``."""

    wrappers: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.wrappers or self.counters)

    @property
    def text(self) -> str:
        """What was left out, in words; empty for nothing."""
        words = [f"without {' and '.join(self.wrappers)} inside names"] if self.wrappers else []
        words += [f"without {', '.join(self.counters)}"] if self.counters else []
        return ", ".join(words)

    @property
    def cause(self) -> Cause | None:
        """The wrappers as a cause, or None."""
        if not self.wrappers:
            return None
        plural = "s" if len(self.wrappers) > 1 else ""
        count = f"{len(self.renamed)} tensor{'s' if len(self.renamed) > 1 else ''}"
        return Cause(
            "wrapped-names",
            f"wrapper{plural} {' and '.join(self.wrappers)} inside the names of {count} "
            f"({', '.join(few(self.renamed, 2))}): take {'them' if plural else 'it'} out",
            f"no timm release takes {' and '.join(self.wrappers)} out of the inside of names",
            len(self.renamed),
            few(self.renamed),
            stops=False,
        )

    @property
    def notes(self) -> list[str]:
        """That counters were left out, in one line."""
        if not self.counters:
            return []
        of = ", the counter of torch.optim.swa_utils.AveragedModel" if "n_averaged" in self.counters else ""
        what = "it is no tensor" if len(self.counters) == 1 else "they are no tensors"
        return [f"left out, since {what} of the model: {', '.join(self.counters)}{of}"]


def has_wrappers(names: Iterable[str]) -> bool:
    """Whether a wrapper stands anywhere inside names."""
    return any(_WRAPPER.search(name) for name in names if len(name) <= LONGEST)


def plain(state: Mapping[str, Tensor], everywhere: bool = False) -> tuple[dict[str, Tensor], LeftOut]:
    """A state dict without wrappers inside its names and without counters, and what was left out.

    A wrapper at the beginning of names, or before the blocks of a tower, is part of a prefix. Then the names stay, unless all
    wrappers are to be taken out ``everywhere``. They also stay where two names would become one.
    """
    counters = tuple(k for k, v in state.items() if k in _COUNTERS and v.numel() == 1 and v.ndim < 2)
    kept = {k: v for k, v in state.items() if k not in counters} if len(counters) < len(state) else dict(state)
    counters = counters if len(kept) < len(state) else ()
    names = {k: _WRAPPER.sub(_left, k) for k in kept if len(k) <= LONGEST and _WRAPPER.search(k)}
    whole = {names.get(k, k) for k in kept}
    if not names or len(whole) < len(kept) or (not everywhere and any(map(_is_prefix, names))):
        return kept, LeftOut(counters=counters)
    found = dict.fromkeys(_wrapper(match[0]) for k in names for match in _WRAPPER.finditer(k))
    return {names.get(k, k): v for k, v in kept.items()}, LeftOut(tuple(found), tuple(names), counters)


def _left(match: re.Match[str]) -> str:
    """What remains of a wrapper: the point behind a block's number, where it was matched with it."""
    return "." if match[0].startswith(".") else ""


def _wrapper(matched: str) -> str:
    return matched.removeprefix(".")


def _is_prefix(name: str) -> bool:
    """Whether a wrapper stands before the blocks of a model."""
    first = _WRAPPER.search(name)
    assert first is not None
    before, behind = name[: first.start()], name[first.end() :]
    return not re.search(r"\d", before) and bool(re.search(r"(^|\.)\w+\.\d+\.", behind))


def wrapped_names(state: State) -> Iterator[Cause]:
    """The cause that wrappers stand inside names, of a file of no known format."""
    cause = plain({k: v for k, v in state.items() if isinstance(v, Tensor)})[1].cause
    if cause is not None:
        yield cause
