"""Searches a checkpoint file for image towers: every mapping in it that holds tensors, and every prefix of their names.

A training checkpoint holds more than one model: student and teacher, a moving average of the weights (EMA), heads, an
optimizer. What detection recognises is ranked by how it fits the model that was asked for, and by what training makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import UserError
from ..reference import LoadError, Opened
from .explaining.left_out import LeftOut, has_wrappers, plain

_MAX_NESTING = 8
# The smallest tower, of one block, has more tensors than this.
_FEWEST = 8
# What training makes of an entry or prefix of this name. DINO, DINOv2 and I-JEPA evaluate the teacher, MoCo its query encoder
# (encoder_q, base_encoder), not the momentum encoder (encoder_k); ALBEF and BLIP not the one whose name ends in _m.
_WANTED = re.compile(r"(^|[._])(ema|averaged?|teacher|target)([._]|$)")
_TRAINED_AGAINST = re.compile(
    r"(^|[._])(student|momentum|online|predictor|decoder)([._]|$)"
    r"|(^|[._])((encoder|backbone|model|net)_(k|m|key)|key_(encoder|backbone|model|net))([._]|$)"
)


@dataclass(frozen=True)
class Found:
    """An image tower in a file: where its tensors lie, and the name of its format.

    ``fits`` says that the model asked for has tensors of these names and widths. ``role`` is 0 for an average or a teacher, 2
    for what is trained against one, 1 for all else. ``left_out`` is what its state was freed of.
    """

    opened: Opened
    form: str
    fits: bool
    role: int
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def rank(self) -> tuple[bool, int]:
        """The smaller, the likelier to be what the user wants."""
        return (not self.fits, self.role)

    @property
    def text(self) -> str:
        """Place, format and number of tensors in words."""
        return f"{self.opened.where or 'at the top'}: {self.form}, {len(self.opened.state)} tensors"


@dataclass(frozen=True)
class Rest:
    """Tensors of a file that belong to no tower: those of one entry."""

    entry: str
    tensors: int


@dataclass(frozen=True)
class Nameless:
    """A list of tensors, which have no names, and the keys that lead to it."""

    keys: tuple[str, ...]
    tensors: list[Tensor]

    @property
    def text(self) -> str:
        """Number and place of the tensors in words."""
        where = f"under {'.'.join(self.keys)}" if self.keys else "at the top"
        return f"{len(self.tensors)} tensors without names {where}"

    def text_beside(self, state: Mapping[str, Tensor]) -> str:
        """The same beside an opened state dict, of whose shapes the tensors may be."""
        alike = sorted(tuple(t.shape) for t in self.tensors) == sorted(tuple(t.shape) for t in state.values())
        return f"{self.text}{', in the order of model.parameters()' if alike else ''}"


def search(
    content: Mapping, form_of: Callable[[Mapping[str, Tensor]], str], fits: Callable[[Mapping[str, Tensor], str], bool]
) -> tuple[list[Found], list[Rest]]:
    """All towers of a file, the likeliest first, and what else it holds.

    ``form_of`` gives the format of a state dict and raises :class:`LoadError` if there is none. ``fits`` says whether a state
    dict of a format fits the model.
    """
    towers, rest = [], []
    for entry, state in mappings(content):
        found = list(_towers(entry, state, form_of, fits))
        if not found and has_wrappers(state):
            found = list(_towers(entry, state, form_of, fits, everywhere=True))
        fitting = [t.opened.prefix for t in found if t.fits]
        found = [t for t in found if t.fits or not any(prefix.startswith(t.opened.prefix) for prefix in fitting)]
        used = {id(t) for tower in found for t in tower.opened.state.values()}
        towers += found
        counters = plain(state)[1].counters if found else ()
        left = sum(id(t) not in used and name not in counters for name, t in state.items())
        if left:
            rest.append(Rest(".".join(entry), left))
    return sorted(towers, key=lambda found: found.rank), rest


def mappings(content: Mapping) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping in a file with its named tensors, and the keys that lead to it, outermost first. None comes twice."""
    for entry, value in _containers(content):
        if isinstance(value, Mapping):
            tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
            if tensors:
                yield entry, tensors


def nameless(content: Mapping) -> list[Nameless]:
    """The lists and tuples of two tensors or more, and of nothing else, that mappings of a file hold."""
    lists = [(keys, list(value)) for keys, value in _containers(content) if isinstance(value, (list, tuple))]
    return [Nameless(keys, held) for keys, held in lists if len(held) > 1 and all(isinstance(v, Tensor) for v in held)]


def _containers(content: Mapping) -> Iterator[tuple[tuple[str, ...], Mapping | list | tuple]]:
    """Every mapping, list and tuple in a file, and the keys that lead to it, outermost first. None comes twice."""
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], object]] = [((), content)]
    for _ in range(_MAX_NESTING):
        below: list[tuple[tuple[str, ...], object]] = []
        for entry, value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Mapping):
                yield entry, value
                below += [((*entry, str(k)), v) for k, v in value.items() if isinstance(v, (Mapping, list, tuple))]
            elif isinstance(value, (list, tuple)):
                yield entry, value
                below += [((*entry, str(n)), v) for n, v in enumerate(value) if isinstance(v, (Mapping, list, tuple))]
        level = below


def _towers(
    entry: tuple[str, ...],
    state: Mapping[str, Tensor],
    form_of: Callable[[Mapping[str, Tensor]], str],
    fits: Callable[[Mapping[str, Tensor], str], bool],
    everywhere: bool = False,
) -> Iterator[Found]:
    """The towers behind prefixes of the names in a mapping.

    Inside one that does not fit the model only one that fits counts: a tower behind ``image_encoder.`` passes for a SAM's, too.
    ``everywhere`` is that of :func:`.left_out.plain`.
    """
    seen: dict[str, bool] = {}
    for prefix in prefixes(state):
        outer = [fit for other, fit in seen.items() if prefix.startswith(other)]
        if any(outer):
            continue
        tensors, left_out = plain(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, everywhere
        )
        if everywhere and not left_out.wrappers:
            continue
        try:
            form = form_of(tensors)
        except LoadError:
            continue
        fit = fits(tensors, form)
        if fit or not outer:
            seen[prefix] = fit
            yield Found(Opened(tensors, entry, prefix), form, fit, _role((*entry, prefix)), left_out)


def prefixes(names: Mapping[str, object]) -> list[str]:
    """All dotted prefixes of names that lead to a tower's number of tensors, the shortest first; the first is empty."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for n in range(len(parts)):
            prefix = "".join(f"{part}." for part in parts[:n])
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted((p for p, count in counts.items() if count >= _FEWEST), key=lambda p: p.count("."))


def _role(where: tuple[str, ...]) -> int:
    """The role of :class:`Found` that the names of an entry and a prefix tell."""
    words = ".".join(where).lower()
    if _WANTED.search(words):
        return 0
    return 2 if _TRAINED_AGAINST.search(words) else 1


_CHUNKED = re.compile(r"blocks\.\d+\.(\d+)\.")


def unchunked(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors under the names of blocks in one list, or None if they are in one.

    FSDP training of DINOv2 and DINOv3 stores ``blocks.CHUNK.BLOCK.``; blocks are numbered through all chunks. Source:
    facebookresearch/dinov2, ``dinov2/models/vision_transformer.py``, ``BlockChunk``.
    """
    blocks = [k for k in state if k.startswith("blocks.")]
    if not blocks or not all(_CHUNKED.match(k) for k in blocks):
        return None
    names = {k: _CHUNKED.sub(r"blocks.\1.", k, count=1) for k in state}
    return {names[k]: v for k, v in state.items()} if len(set(names.values())) == len(names) else None


def chosen(content: Mapping, entry: str | None, prefix: str | None) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The keys and the named tensors that ``--entry`` and ``--prefix`` choose. Raises :class:`UserError`.

    A prefix is removed from the names that have it; other tensors are left out. Without an entry, the prefix is looked for in
    the outermost mapping that has it.
    """
    known = {".".join(keys): (keys, state) for keys, state in mappings(content)}
    if entry is not None and entry not in known:
        held = [name for name in known if name.startswith(f"{entry}.")]
        there = held or [name for name in known if name]
        raise UserError(
            f"--entry {entry}: the checkpoint has no tensors there; "
            + (
                f"it has some under {', '.join(sorted(there))}"
                if there
                else "its tensors lie at the top, leave --entry away"
            )
        )
    for keys, state in known.values() if entry is None else [known[entry]]:
        tensors = {k.removeprefix(prefix or ""): v for k, v in state.items() if k.startswith(prefix or "")}
        if tensors:
            return keys, tensors
    where = f" under {entry}" if entry is not None else ""
    first = dict.fromkeys(f"{k.partition('.')[0]}." for _, state in known.values() for k in state if "." in k)
    raise UserError(f"--prefix {prefix}: no tensor's name{where} begins with it; names begin with {', '.join(first)}")
