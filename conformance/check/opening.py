"""Opens a checkpoint for a check: as timm reads it, else where a search finds an image tower, or where the user says.

The answer always says what was opened, and what else the file holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..reference import LoadError, Opened, open_checkpoint
from .detection import Detector
from .explaining.left_out import LeftOut, plain
from .reading import FromNumpy
from .search import Found, Rest, chosen, mappings, nameless, search, unchunked

_MAX_LISTED = 6


class SeveralModels(LoadError):
    """Several towers of a file are equally likely. ``beside`` is what else the file holds, one line each."""

    def __init__(self, reason: str, beside: list[str]) -> None:
        super().__init__(reason)
        self.beside = beside


@dataclass(frozen=True)
class Opening:
    """What a check reads of a file. ``chunked`` says that its blocks were stored in chunks, see :func:`.search.unchunked`.

    ``by_timm`` says that some timm release opens the file in the same way by itself; otherwise a user has to take the tensors
    out. ``beside`` is what else the file holds, one line each. ``left_out`` is what the opened state was freed of.
    ``numpy`` says whether the file holds its ``arrays`` or its ``numbers``; it is empty if there are none.
    """

    opened: Opened
    by_timm: bool
    beside: list[str] = field(default_factory=list)
    chunked: bool = False
    left_out: LeftOut = field(default_factory=LeftOut)
    numpy: str = ""

    @property
    def where(self) -> str:
        """Entry, prefix, what was left out, and that arrays became tensors, in words; empty for a plain dict of tensors."""
        numpy = {"arrays": "made of numpy arrays", "numbers": "without numbers of numpy"}.get(self.numpy, "")
        return ", ".join(filter(None, (self.opened.where, self.left_out.text, numpy)))

    def by_hand_of(self, got: Mapping[str, object], right: Mapping[str, object]) -> bool:
        """Whether a user has to take the tensors out for a loader that ``got`` these tensors where it should have ``right``."""
        if self.left_out and (right.keys() - got.keys() or got.keys() & {*self.left_out.counters}):
            return True
        return bool(self.opened.where or self.chunked or self.numpy) and not got.keys() & right.keys()


def opening(
    content: Mapping,
    detector: Detector,
    entry: str | None = None,
    prefix: str | None = None,
) -> Opening:
    """The tower of a file that is to be checked.

    It is the one under ``entry`` and behind ``prefix``, if they are given; else the one that timm opens, unless another one alone
    fits the model; else the likeliest one
    that :func:`.search.search` finds. Raises :class:`LoadError` if no tower is found, :class:`SeveralModels` if several are
    equally likely, and :class:`UserError` if there are no tensors where the user says.
    """
    try:
        own = open_checkpoint(content)
        state, left_out = plain(own.state)
        own = replace(own, state=state) if left_out else own
        own_fits = detector.fits(own.state, detector.form_of(own.state))
        refusal = None
    except LoadError as error:
        own, own_fits, refusal, left_out = None, False, error, LeftOut()
    towers, rest = search(content, detector.form_of, detector.fits)
    if entry is not None or prefix is not None:
        opened, left_out = _as_said(content, detector, entry, prefix)
    elif own is not None and (own_fits or not (towers and towers[0].fits)):
        opened = own
    elif towers:
        found = _likeliest(content, towers, rest)
        opened, left_out = found.opened, found.left_out
    else:
        assert refusal is not None
        raise refusal
    if opened is not own:
        open_checkpoint(opened.state)  # raises for tensors that are not dense
    one_list = unchunked(opened.state)
    chunked = one_list is not None
    changed = chunked or bool(left_out)
    by_timm = own is not None and (own.entry, own.prefix) == (opened.entry, opened.prefix) and not changed
    beside = _beside(content, opened.state, towers, rest)
    opened = opened if one_list is None else replace(opened, state=one_list)
    numpy = ("arrays" if content.arrays else "numbers") if isinstance(content, FromNumpy) else ""
    return Opening(opened, by_timm, beside, chunked, left_out, numpy)


def _as_said(content: Mapping, detector: Detector, entry: str | None, prefix: str | None) -> tuple[Opened, LeftOut]:
    """The tensors where the user says, and what they were freed of.

    Without a prefix, they are the likeliest tower of the entry; all of it, if none is found.
    """
    keys, tensors = chosen(content, entry, prefix)
    if prefix is not None:
        state, left_out = plain(tensors)
        return Opened(state, keys, prefix), left_out
    towers, rest = search(tensors, detector.form_of, detector.fits)
    if not towers:
        return Opened(tensors, keys), LeftOut()
    found = _likeliest(tensors, towers, rest)
    return Opened(found.opened.state, keys, found.opened.prefix), found.left_out


def _likeliest(content: Mapping, towers: list[Found], rest: list[Rest]) -> Found:
    """The first of the ranked towers of a content. Raises :class:`SeveralModels` if others are as likely."""
    equal = [t for t in towers if t.rank == towers[0].rank]
    if len(equal) == 1:
        return equal[0]
    listed = "; ".join(t.text for t in equal[:_MAX_LISTED])
    listed += f"; and {len(equal) - _MAX_LISTED} more" if len(equal) > _MAX_LISTED else ""
    raise SeveralModels(
        f"several models in this checkpoint: {listed}; choose one with --entry or --prefix",
        _beside(content, {}, towers[len(equal) :], rest),
    )


def _beside(content: Mapping, state: Mapping[str, Tensor], towers: list[Found], rest: list[Rest]) -> list[str]:
    """What a file holds beside the opened ``state``: other towers, other tensors, and the names of the rest."""
    taken = {id(t) for t in state.values()}
    others = [t.text for t in towers if not any(id(v) in taken for v in t.opened.state.values())]
    heads = [
        f"{r.tensors} other tensor{'s' if r.tensors > 1 else ''} {f'under {r.entry}' if r.entry else 'at the top'}"
        for r in rest
    ]
    plain = [str(k) for k, v in content.items() if not isinstance(v, Tensor) and not _tensors_in(v)]
    lines = others + heads + [one.text_beside(state) for one in nameless(content)]
    lines += [f"without tensors: {', '.join(plain[:12])}{', ...' if len(plain) > 12 else ''}"] if plain else []
    return lines if len(lines) <= _MAX_LISTED else [*lines[: _MAX_LISTED - 1], f"{len(lines) - _MAX_LISTED + 1} more"]


def _tensors_in(value: object) -> bool:
    return isinstance(value, (Mapping, list, tuple)) and bool(
        nameless({"": value}) or next(mappings({"": value}), None)
    )
