"""Ranks the registered models of a timm release by what would have to change for a checkpoint to fit.

Models of another width are left out: nothing makes a checkpoint fit them. A model of the checkpoint's depth comes before any
other, if there is one. Every option that is proposed was tried: the model was built with it, without memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from torch import Tensor

from ...drawing.catalogue import models_of
from ...families import READ
from ...reference import FORMATS
from ...targets.architectures import Architecture, Shapes, architectures, shapes_of, tags_of
from .misfits import differences
from .pairing import Difference, num_blocks

_KERNELS = ("patch_embed.proj.weight", "embeds.proj.weight")
_BIASES = (".q_bias", ".v_bias")
_ROUNDS = 3
_TRIED = 4
_OTHER_MODEL = 1.0
_UNUSUAL = 0.5


@dataclass(frozen=True)
class Fit:
    """A registered model, and what lies between it and a checkpoint.

    ``model`` is its name, with the asked model's tag or the only one it has. ``options`` are the arguments of ``create_model``
    under which as many tensors fit as can; ``changes`` says what they change. ``misfits`` is what no option changes, and
    ``tensors`` the number of tensors that it touches. ``unused`` names parts of the checkpoint that no such model uses.
    ``asked`` marks the model that the user asked for, and ``given`` are the options that the user gives it in any case.
    """

    model: str
    options: Mapping[str, Any]
    changes: tuple[str, ...]
    misfits: tuple[str, ...]
    unused: tuple[str, ...]
    tensors: int
    cost: float
    asked: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every tensor fits, under the options."""
        return not self.tensors

    @property
    def call(self) -> str:
        """The call of ``create_model`` that makes the model."""
        arguments = "".join(f", {k}={v!r}" for k, v in {**self.given, **self.options}.items())
        return f'timm.create_model("{self.model}"{arguments})'.replace("'", '"')


def rank_models(
    state: Mapping[str, Tensor], asked: str, *, form: str = "", given: Mapping[str, Any] | None = None, limit: int = 3
) -> list[Fit]:
    """The best ``limit`` of the models registered in this process's timm, best first; none where none has the width.

    ``state`` is a checkpoint in timm's layout, as ``Format.decode`` returns it; its tensors may be on the meta device. ``asked``
    is the model's name as the user gave it. ``form`` is the name of the checkpoint's format: models of its families come first.
    ``given`` are options of ``create_model`` that the user gives in any case: they are not reported, unless they have to change.
    """
    biases = [k for k in state if k.endswith(_BIASES)]
    unused = biases if all(_is_zero(state[k]) for k in biases) else ()  # a model without them takes biases of zeros
    shapes = {k: tuple(v.shape) for k, v in state.items() if k not in unused}
    width, depth, name = _width(shapes), num_blocks(shapes), asked.partition(".")[0]
    if not width or not depth:
        return []
    known = architectures()
    same = [
        a
        for a in known.values()
        if (a.embed_dim == width and (a.name == name or _is_of_kind(a, shapes, known.get(name))))
        or (a.name == name and (given or {}).get("embed_dim") == width)
    ]
    deep = [a for a in same if a.depth == depth]
    chosen = [a for a in same if a.name == name] + [a for a in deep or same if a.name != name]
    likely, windowed = _of_format(form), form in FORMATS and FORMATS[form].windowed
    built: dict[str, Shapes | None] = {}
    ranked: list[tuple[_Candidate, list[Difference]]] = []
    for one in chosen:
        candidate = _Candidate(one, asked, given or {}, likely)
        if candidate.key not in built:
            built[candidate.key] = shapes_of(candidate.name, candidate.options)
        if (model := built[candidate.key]) is not None:
            ranked.append((candidate, differences(shapes, model, one.module, windowed)))
    ranked.sort(key=lambda pair: pair[0].order(pair[1]))
    best = ranked[: max(limit, _TRIED)]
    best += [pair for pair in ranked[len(best) :] if pair[0].is_asked]  # an option may change much of a model
    fits = [_tried(shapes, candidate, found, windowed) for candidate, found in best]
    return sorted(fits, key=lambda fit: (fit.tensors, fit.cost))[:limit]


@dataclass(frozen=True)
class _Candidate:
    """An architecture to be ranked. ``asked`` is the model's name as the user gave it, ``given`` the options beside it."""

    architecture: Architecture
    asked: str
    given: Mapping[str, Any]
    likely: frozenset[str]

    @property
    def is_asked(self) -> bool:
        """Whether the user asked for it."""
        return self.architecture.name == self.asked.partition(".")[0]

    @property
    def name(self) -> str:
        """The name to build it by."""
        return self.asked if self.is_asked else self.architecture.name

    @property
    def options(self) -> dict[str, Any]:
        """The options to build it with."""
        return dict(self.given) if self.is_asked else {}

    @property
    def key(self) -> str:
        """The same for architectures with the same tensors."""
        return self.name if self.is_asked else self.architecture.options

    @property
    def distance(self) -> float:
        """What it costs a user to take this model at all."""
        unusual = bool(self.likely) and self.architecture.name not in self.likely
        return (0.0 if self.is_asked else _OTHER_MODEL) + (_UNUSUAL if unusual else 0.0)

    def order(self, found: Iterable[Difference]) -> tuple[int, float, float, str]:
        """The order before any option is tried: tensors that no option fits, what has to change, likeness of names."""
        found, name = list(found), self.architecture.name
        near = SequenceMatcher(None, self.asked.partition(".")[0], name).ratio()
        return _touched(d for d in found if d.options is None), _total(found) + self.distance, -near, name


def _tried(
    shapes: Mapping[str, tuple[int, ...]], candidate: _Candidate, found: list[Difference], windowed: bool
) -> Fit:
    """The fit of a model. An option is kept if timm builds the model with it and fewer tensors differ then."""
    kept, changed = candidate.options, []
    tried: set[str] = set()
    for _ in range(_ROUNDS):
        for difference in [d for d in found if d.options and d.text not in tried]:
            tried.add(difference.text)
            merged = {**kept, **(difference.options or {})}
            model = shapes_of(candidate.name, merged)
            left = None if model is None else differences(shapes, model, candidate.architecture.module, windowed)
            if left is not None and _touched(left) < _touched(found):
                kept, found = merged, left
                changed.append(difference)
    rest = [d for d in found if d.options != {}]
    given = candidate.options
    return Fit(
        model=candidate.asked if candidate.is_asked else _tagged(candidate.name, candidate.asked),
        options={k: v for k, v in kept.items() if k not in given or given[k] != v},
        changes=tuple(d.text for d in changed),
        misfits=tuple(d.text for d in rest),
        unused=tuple(d.text for d in found if d.options == {}),
        tensors=_touched(rest),
        cost=_total([*changed, *rest]) + candidate.distance,
        asked=candidate.is_asked,
        given=given,
    )


def _touched(found: Iterable[Difference]) -> int:
    return sum(d.tensors for d in found)


def _total(found: Iterable[Difference]) -> float:
    return sum(d.cost for d in found)


def _is_zero(tensor: Tensor) -> bool:
    return not tensor.is_meta and not bool(tensor.any())


def _width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The width of a checkpoint's tokens; 0 if no tensor tells it."""
    kernel = next((shapes[k] for k in _KERNELS if shapes.get(k)), None)
    norm = next((shapes[k] for k in shapes if re.fullmatch(r"blocks\.\d+\.norm1\.weight", k)), None)
    told = norm if norm and not _is_staged(shapes) else kernel
    return told[0] if told else 0


def _is_of_kind(one: Architecture, shapes: Mapping[str, tuple[int, ...]], asked: Architecture | None) -> bool:
    """Whether an architecture is of the checkpoint's kind: with stages, with a convolutional stem, or none of these.

    A NaFlexViT is, where one was asked for: its tensors are those of another model as well.
    """
    stem = any(k.startswith("patch_embed.backbone.") for k in shapes)
    naflex = asked is not None and asked.naflex
    return (
        ("swin" in one.module) == _is_staged(shapes)
        and (stem or one.module != "vision_transformer_hybrid")
        and (naflex or not one.naflex)
    )


def _is_staged(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a checkpoint has stages of several widths, as Swin has."""
    return any(k.startswith("layers.") for k in shapes)


@cache
def _of_format(form: str) -> frozenset[str]:
    """The architectures whose published checkpoints have a format."""
    return frozenset(m.name.partition(".")[0] for f in READ.values() if f.format == form for m in models_of(f))


def _tagged(architecture: str, asked: str) -> str:
    """A model's name with the tag of the asked model, or with its only tag; else without one, which is timm's default."""
    tags, wanted = tags_of(architecture), asked.partition(".")[2]
    tag = wanted if wanted in tags else tags[0] if len(tags) == 1 else ""
    return f"{architecture}.{tag}" if tag else architecture
