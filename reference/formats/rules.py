"""A checkpoint format as a table of rules that work in both directions.

``decode`` converts upstream tensors to timm's layout, ``encode`` converts timm's layout to upstream tensors. A rule names
tensors by patterns: ``{i}`` stands for a block index, ``{n}`` for one digit, ``{p}`` for ``weight`` or ``bias``, ``{rest}``
and ``{any}`` for any text. The first rule that matches a key handles it. For every format
``decode(encode(state)) == state``, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import LoadError, some
from ..resize import BICUBIC_ANTIALIAS, Resampling

StateDict = dict[str, Tensor]

_KEYS = 65536
_FIELDS = {"i": r"\d+", "n": r"\d", "p": "weight|bias", "rest": ".+", "any": ".+"}


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    text = "".join(f"(?P<{p}>{_FIELDS[p]})" if n % 2 else re.escape(p) for n, p in enumerate(parts))
    return re.compile(text)


@lru_cache(maxsize=_KEYS)
def match(pattern: str, key: str) -> Mapping[str, str] | None:
    """The values of the pattern's fields in ``key``, or None if the pattern does not match the whole key."""
    found = _regex(pattern).fullmatch(key)
    return MappingProxyType(found.groupdict()) if found else None


@dataclass(frozen=True)
class Facts:
    """Properties of the model that the tensors do not give.

    ``in_chans`` and ``patch_size`` are needed to decode linear kernels. ``num_heads`` is needed to encode Flax attention, whose
    kernels have an axis for heads. ``channels_last`` is the order in which a NaFlexViT flattens patches. ``fc_norm`` says whether
    the final norm comes after the pool.
    """

    in_chans: int = 3
    patch_size: tuple[int, int] | None = None
    num_heads: int = 1
    channels_last: bool = True
    fc_norm: bool = False


def _same(tensor: Tensor, facts: Facts) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Rename:
    """One upstream tensor is one timm tensor. ``decode`` and ``encode`` convert it if its layout differs."""

    upstream: str
    timm: str
    decode: Callable[[Tensor, Facts], Tensor] = _same
    encode: Callable[[Tensor, Facts], Tensor] = _same


@dataclass(frozen=True)
class Fold:
    """Several upstream tensors, all of them present, are several timm tensors (sums, splits, concatenations).

    The patterns of one rule share their fields: q, k and v of one block become that block's qkv. ``decode`` and ``encode``
    take the tensors and then the :class:`Facts`.
    """

    upstream: tuple[str, ...]
    timm: tuple[str, ...]
    decode: Callable[..., tuple[Tensor, ...]]
    encode: Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Fill:
    """A timm tensor that the format does not store: one zero for each row of ``like``, with its dtype and device.

    A model with the tensor ``unless`` has no such tensor. Encoding leaves it out.
    """

    timm: str
    like: str
    unless: str = ""


@dataclass(frozen=True)
class Drop:
    """An upstream tensor that an image encoder does not use. ``make`` recreates it from the encoded tensors, or returns None.

    A pattern with ``{i}`` makes one tensor for each block.
    """

    upstream: str
    make: Callable[[StateDict], Tensor | None] | None = None


Rule = Rename | Fold | Fill | Drop


@dataclass(frozen=True)
class _Use:
    """A rule that handles a key, with the names of the tensors that it takes and gives."""

    rule: Rule
    takes: tuple[str, ...]
    gives: tuple[str, ...]


def _patterns(rule: Rule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The patterns of a rule's upstream and timm tensors."""
    if isinstance(rule, Fold):
        return rule.upstream, rule.timm
    upstream = () if isinstance(rule, Fill) else (rule.upstream,)
    return upstream, () if isinstance(rule, Drop) else (rule.timm,)


def _find_uses(rules: tuple[Rule, ...], decoding: bool, key: str) -> tuple[_Use, ...]:
    """The rules that handle a key, in their order, up to the first that needs no other tensor beside it."""
    found = []
    for rule in rules:
        takes, gives = _patterns(rule) if decoding else _patterns(rule)[::-1]
        fields = next((f for f in (match(pattern, key) for pattern in takes) if f is not None), None)
        if fields is not None:
            found.append(_Use(rule, *(tuple(p.format(**fields) for p in side) for side in (takes, gives))))
            if not isinstance(rule, Fold):
                break
    return tuple(found)


@dataclass(frozen=True)
class Format:
    """One checkpoint format.

    ``namespace`` is the prefix of the image encoder's keys. Keys outside it are foreign (text tower, loss scale) and dropped;
    keys inside it that no rule knows are an error. ``evidence`` tells whether a state dict has this format. No checkpoint has
    the evidence of two formats. ``entry`` is the wrapper in which alone these names are this format's; elsewhere they are
    another's, saved from DistributedDataParallel (I-JEPA). ``forward(state_dict, image, arch)`` runs the upstream tensors as
    the upstream code does. ``resampling`` is how the format's kernel and position grid are resized. With ``windowed``,
    positions are a square grid of which a model reads the top left part (RADIO). With ``square_grid``, positions are a square
    grid whatever the image (SigLIP 2). With ``square_windows``, relative position tables have square windows, even if the
    model's are not (Swin). ``prefix_rows`` tells whether positions begin with rows for the prefix tokens (None: the format
    allows both). With ``norm_follows_model``, the final norm has one name, and the model says whether it comes before the pool
    or after it.
    """

    name: str
    namespace: str
    rules: tuple[Rule, ...]
    evidence: Callable[[Mapping[str, Tensor]], bool]
    forward: Callable[[Mapping[str, Tensor], Tensor, Mapping], Tensor] = field(repr=False)
    resampling: Resampling = BICUBIC_ANTIALIAS
    windowed: bool = False
    square_grid: bool = False
    square_windows: bool = False
    prefix_rows: bool | None = None
    norm_follows_model: bool = False
    entry: str = ""

    @cached_property
    def _uses(self) -> Callable[[bool, str], tuple[_Use, ...]]:
        return lru_cache(maxsize=_KEYS)(partial(_find_uses, self.rules))

    def decode(self, state_dict: Mapping[str, Tensor], facts: Facts = Facts()) -> StateDict:
        """Upstream tensors to timm's layout, at the checkpoint's own geometry. Raises :class:`LoadError`."""
        out: StateDict = {}
        taken: set[str] = set()
        unknown = []
        for key in state_dict:
            if key in taken or not key.startswith(self.namespace):
                continue
            use = _first_whole(self._uses(True, key), state_dict)
            if use is None:
                unknown.append(key)
                continue
            taken.update(use.takes)
            if isinstance(use.rule, (Rename, Fold)):
                made = self._decoded(use.takes, [state_dict[k] for k in use.takes], use.rule.decode, facts)
                out.update(zip(use.gives, made if isinstance(use.rule, Fold) else (made,)))
        if unknown:
            raise LoadError(f"the {self.name} format has no tensor named {some(unknown)}")
        for rule in self.rules:
            if isinstance(rule, Fill) and rule.like in out and not {rule.timm, rule.unless} & out.keys():
                out[rule.timm] = out[rule.like].new_zeros(out[rule.like].shape[:1])
        if self.norm_follows_model and facts.fc_norm:
            out = {re.sub(r"^norm\.", "fc_norm.", name): tensor for name, tensor in out.items()}
        return out

    def _decoded(self, keys: tuple[str, ...], tensors: list[Tensor], decode: Callable[..., Any], facts: Facts) -> Any:
        """The result of a rule on its tensors. Raises :class:`LoadError` for tensors that the format cannot have."""
        try:
            return decode(*tensors, facts)
        except LoadError:
            raise
        except (IndexError, RuntimeError, TypeError, ValueError):
            found = some(f"{k} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for k, t in zip(keys, tensors))
            raise LoadError(f"the {self.name} format cannot have tensors of these shapes and dtypes: {found}") from None

    def encode(self, state: Mapping[str, Tensor], facts: Facts = Facts()) -> StateDict:
        """timm's layout to upstream tensors, the exact inverse of :meth:`decode`. Raises :class:`LoadError`."""
        out: StateDict = {}
        taken: set[str] = set()
        for key in state:
            if key in taken:
                continue
            use = _first_whole(self._uses(False, key), state)
            if use is None:
                raise LoadError(f"the {self.name} format has no place for {key}")
            taken.update(use.takes)
            if isinstance(use.rule, (Rename, Fold)):
                encode: Callable[..., Any] = use.rule.encode
                made = encode(*(state[k] for k in use.takes), facts)
                out.update(zip(use.gives, made if isinstance(use.rule, Fold) else (made,)))
        for rule in self.rules:
            if not isinstance(rule, Drop) or rule.make is None:
                continue
            recreated = rule.make(out)
            if recreated is not None:
                keys = [rule.upstream.format(i=i) for i in _blocks(rule.upstream, out)] or [rule.upstream]
                out |= {key: recreated.clone() for key in keys}
        return out

    def prefixed(self, prefix: str, name: str) -> Format:
        """The same format with ``prefix`` in front of every upstream key (DistributedDataParallel's ``module.``)."""

        def moved(rule: Rule) -> Rule:
            if isinstance(rule, Fill):
                return rule
            if isinstance(rule, Fold):
                return replace(rule, upstream=tuple(prefix + key for key in rule.upstream))
            if isinstance(rule, Drop) and rule.make is not None:
                make = rule.make
                return replace(rule, upstream=prefix + rule.upstream, make=lambda out: make(strip(out, prefix)))
            return replace(rule, upstream=prefix + rule.upstream)

        return replace(
            self,
            name=name,
            namespace=prefix + self.namespace,
            rules=tuple(moved(rule) for rule in self.rules),
            evidence=lambda state: self.evidence(strip(state, prefix)),
            forward=lambda state, image, arch: self.forward(strip(state, prefix), image, arch),
        )


def _first_whole(uses: tuple[_Use, ...], present: Mapping[str, Tensor]) -> _Use | None:
    """The first use of which all tensors are present; None if there is none."""
    return next((use for use in uses if all(key in present for key in use.takes)), None)


def _blocks(pattern: str, state: Mapping[str, Tensor]) -> list[str]:
    """The block indices in ``state`` for a pattern with ``{i}``; none for a pattern without."""
    before, field, _ = pattern.partition("{i}")
    inside = [key.removeprefix(before).partition(".")[0] for key in state if key.startswith(before)] if field else []
    return [index for index in dict.fromkeys(inside) if index.isdecimal()]


# Tensors that have timm's names already.
SAME = Rename("{rest}", "{rest}")


def concatenated(upstream: tuple[str, ...], timm: str) -> Fold:
    """Tensors stacked along their first axis in timm: q, k, v as qkv."""
    return Fold(
        upstream,
        (timm,),
        lambda *parts: (torch.cat(parts[:-1]),),
        lambda whole, facts: whole.chunk(len(upstream)),
    )


def transpose(tensor: Tensor, facts: Facts) -> Tensor:
    """The transposed matrix: from one that is applied from the right to a linear layer's weight, and back."""
    return tensor.T.contiguous()


def batch(tensor: Tensor, facts: Facts) -> Tensor:
    """The tensor with a leading axis of length 1."""
    return tensor[None]


def unbatch(tensor: Tensor, facts: Facts) -> Tensor:
    """The tensor without its leading axis of length 1."""
    if len(tensor) != 1:
        raise ValueError("more than one")
    return tensor[0]


def strip(state_dict: Mapping[str, Tensor], prefix: str) -> StateDict:
    """The entries whose key starts with ``prefix``, with the prefix removed."""
    return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
