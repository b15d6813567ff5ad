"""Opens a checkpoint for a check: as timm reads it, else where a search finds an image tower, or where the user says.

The answer always says what was opened, and what else the file holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..reference import LoadError, Opened, open_checkpoint
from .detection import Detector
from .search import Found, Rest, chosen, mappings, search, unchunked

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
    out. ``beside`` is what else the file holds, one line each.
    """

    opened: Opened
    by_timm: bool
    beside: list[str] = field(default_factory=list)
    chunked: bool = False


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
        own_fits = detector.fits(own.state, detector.form_of(own.state))
        refusal = None
    except LoadError as error:
        own, own_fits, refusal = None, False, error
    towers, rest = search(content, detector.form_of, detector.fits)
    if entry is not None or prefix is not None:
        opened = _as_said(content, detector, entry, prefix)
    elif own is not None and (own_fits or not (towers and towers[0].fits)):
        opened = own
    elif towers:
        opened = _likeliest(content, towers, rest).opened
    else:
        assert refusal is not None
        raise refusal
    if opened is not own:
        open_checkpoint(opened.state)  # raises for tensors that are not dense
    plain = unchunked(opened.state)
    chunked = plain is not None
    by_timm = own is not None and (own.entry, own.prefix) == (opened.entry, opened.prefix) and not chunked
    beside = _beside(content, opened.state, towers, rest)
    return Opening(opened if plain is None else replace(opened, state=plain), by_timm, beside, chunked)


def _as_said(content: Mapping, detector: Detector, entry: str | None, prefix: str | None) -> Opened:
    """The tensors where the user says. Without a prefix, the likeliest tower of the entry; all of it, if none is found."""
    keys, tensors = chosen(content, entry, prefix)
    if prefix is not None:
        return Opened(tensors, keys, prefix)
    towers, rest = search(tensors, detector.form_of, detector.fits)
    if not towers:
        return Opened(tensors, keys)
    found = _likeliest(tensors, towers, rest).opened
    return Opened(found.state, keys, found.prefix)


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
    lines = others + heads
    lines += [f"without tensors: {', '.join(plain[:12])}{', ...' if len(plain) > 12 else ''}"] if plain else []
    return lines if len(lines) <= _MAX_LISTED else [*lines[: _MAX_LISTED - 1], f"{len(lines) - _MAX_LISTED + 1} more"]


def _tensors_in(value: object) -> bool:
    return isinstance(value, (Mapping, list, tuple)) and any(True for _ in mappings({"": value}))
