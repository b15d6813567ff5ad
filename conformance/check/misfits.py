"""Compares a checkpoint's tensors with a model's, by name and shape, and says in words what would have to change.

A difference that ``timm.create_model`` can take away names the option that does. All tensors that one difference touches are
one :class:`Difference`. Names are those of a timm VisionTransformer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from ..targets.architectures import Shapes

Names = Mapping[str, tuple[int, ...]]

_KERNEL, _GRID = "patch_embed.proj.weight", "pos_embed"
_BLOCK = re.compile(r"\bblocks\.(\d+)\.")
_HEADS = ("head.", "head_dist.")
_TRAINING = re.compile(r"(mask_token|(lm_head|decoder\w*|head_dist_mim)\..*|decoder_pos_embed)")
_TABLE = "relative_position_bias_table"
_POOL = "attn_pool."
# What an option costs: those that every user sets are nearly free, those that make another architecture are not.
_FREE, _SIZE, _POOLING, _BUILD, _BLOCKS = 0.01, 0.1, 0.5, 2.0, 4.0
# What each tensor costs that no option explains.
_FOREIGN = 8.0


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
class _Pair:
    """A checkpoint and a model under comparison. ``missing``, ``foreign`` and ``other`` are names not yet explained."""

    have: Names
    model: Shapes
    module: str
    missing: set[str] = field(init=False)
    foreign: set[str] = field(init=False)
    other: set[str] = field(init=False)

    def __post_init__(self) -> None:
        want = self.model.shapes
        self.missing, self.foreign = want.keys() - self.have.keys(), self.have.keys() - want.keys()
        self.other = {k for k in want.keys() & self.have.keys() if want[k] != self.have[k]}

    @property
    def want(self) -> Names:
        """The shapes of the model's tensors."""
        return self.model.shapes

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


def differences(have: Names, model: Shapes, module: str) -> list[Difference]:
    """What would have to change so that tensors of the shapes ``have`` fit a model of a timm ``module``. Cheapest first."""
    pair = _Pair(have, model, module)
    found = [d for explain in _EXPLAINERS for d in explain(pair)]
    return sorted([*found, *_unexplained(pair)], key=lambda d: d.cost)


def num_blocks(shapes: Names) -> int:
    """The number of blocks, of all stages together. A file in pieces counts up to its last block."""
    stages: dict[str, int] = {}
    for name in shapes:
        if found := _BLOCK.search(name):
            before = name[: found.start()]
            stages[before] = max(stages.get(before, 0), int(found[1]) + 1)
    return sum(stages.values())


def _blocks(pair: _Pair) -> Iterator[Difference]:
    old, new = num_blocks(pair.have), num_blocks(pair.want)
    if old != new and any(k.startswith("blocks.") for k in pair.want):

        def beyond(name: str) -> bool:
            found = _BLOCK.match(name)
            return found is not None and int(found[1]) >= min(old, new)

        yield Difference(
            f"{old} blocks, not {new}", {"depth": old}, pair.take(beyond, beyond), _BLOCKS + abs(old - new)
        )


def _classifier(pair: _Pair) -> Iterator[Difference]:
    have, want = (
        next((len_(s[k]) for k in ("head.weight", "head.fc.weight") if k in s), 0) for s in (pair.have, pair.want)
    )
    if have == want:
        return
    count = pair.take(lambda k: k.startswith(_HEADS), lambda k: k.startswith(_HEADS))
    changed = {k for k in pair.other if k.startswith(_HEADS)}
    pair.other -= changed
    text = f"{have or 'no'} classes, not {want}" if want else f"a classifier of {have} classes, the model has none"
    yield Difference(text, {"num_classes": have}, count + len(changed), _FREE)


def len_(shape: tuple[int, ...]) -> int:
    """The length of the first axis."""
    return shape[0] if shape else 0


def _kernel(pair: _Pair) -> Iterator[Difference]:
    old, new = pair.have.get(_KERNEL, ()), pair.want.get(_KERNEL, ())
    if len(old) != 4 or len(new) != 4 or old[0] != new[0] or _KERNEL not in pair.other:
        return
    pair.other.discard(_KERNEL)
    if old[1] != new[1]:
        yield Difference(f"{old[1]} input channels, not {new[1]}", {"in_chans": old[1]}, 1, _SIZE)
    if old[2:] != new[2:]:
        text = "patch {}x{}, not {}x{}".format(*old[2:], *new[2:])
        yield Difference(text, {"patch_size": _size(old[2:])}, 1, _SIZE)


def _size(size: tuple[int, ...]) -> Any:
    return size[0] if len(set(size)) == 1 else tuple(size)


def _tokens(shapes: Names) -> tuple[int, int]:
    """The number of class and distillation tokens, and of register tokens."""
    special = sum(k in shapes for k in ("cls_token", "dist_token"))
    registers = shapes.get("reg_token", ())
    return special, registers[1] if len(registers) == 3 else 0


def _prefix(pair: _Pair) -> Iterator[Difference]:
    eva = pair.module == "eva"
    if "cls_token" in pair.missing | pair.foreign and pair.module not in ("deit", "beit"):
        has, count = pair.alone("cls_token")
        options = {"class_token": has} if has else {"class_token": False, "global_pool": "avg"}
        yield Difference("a class token, the model has none" if has else "no class token", options, count, _BUILD)
    old, new = _tokens(pair.have)[1], _tokens(pair.want)[1]
    if old != new:
        touched = {"reg_token"} & (pair.missing | pair.foreign | pair.other)
        for names in (pair.missing, pair.foreign, pair.other):
            names.discard("reg_token")
        name = "num_reg_tokens" if eva else "reg_tokens"
        yield Difference(f"{old or 'no'} register tokens, not {new}", {name: old}, len(touched), _BUILD)


def _positions(pair: _Pair) -> Iterator[Difference]:
    eva = pair.module == "eva"
    if _GRID in pair.foreign or _GRID in pair.missing:
        has, count = pair.alone(_GRID)
        options = {"use_abs_pos_emb": has} if eva else {"pos_embed": "learn" if has else "none"}
        yield Difference("positions, the model has none" if has else "no positions", options, count, _BUILD)
        return
    old, new = pair.have.get(_GRID, ()), pair.want.get(_GRID, ())
    if len(old) != 3 or len(new) != 3 or old[2] != new[2]:
        return
    pair.other.discard(_GRID)
    special, registers = _tokens(pair.have)
    grid = pair.model.grid_size
    outside = new[1] == grid[0] * grid[1]
    rows = 0 if outside else special + registers
    if old[1] == new[1] and sum(_tokens(pair.have)) == sum(_tokens(pair.want)):
        return
    side = isqrt(max(old[1] - rows, 0))
    if old[1] - rows == grid[0] * grid[1]:
        return
    if side and side * side == old[1] - rows:
        pixels = tuple(side * p * s for p, s in zip(_patch(pair), pair.model.stride))
        yield Difference(f"grid {side}x{side}, not {grid[0]}x{grid[1]}", {"img_size": _size(pixels)}, 1, _SIZE)
        return
    other = 0 if rows else special + registers
    side = isqrt(max(old[1] - other, 0))
    if other != rows and side * side == old[1] - other:
        text = "positions of the patches alone" if rows else "positions of the prefix tokens, too"
        options = {"no_embed_class": bool(rows)}
        if side * side != grid[0] * grid[1]:
            options |= {"img_size": _size(tuple(side * p * s for p, s in zip(_patch(pair), pair.model.stride)))}
        yield Difference(text, options, 1, _BUILD)
        return
    told = f"{old[1]} rows of positions, not {new[1]}"
    yield Difference(told, None, 1, _FOREIGN)


def _patch(pair: _Pair) -> tuple[int, ...]:
    kernel = pair.have.get(_KERNEL, ())
    return kernel[2:] if len(kernel) == 4 else pair.model.patch_size


def _pooling(pair: _Pair) -> Iterator[Difference]:
    token = "token" if "cls_token" in pair.have else "avg"
    if "attn_pool.latent" in pair.foreign | pair.missing:
        has, count = pair.alone(r"attn_pool\..+")
        options: dict[str, Any] = {"global_pool": "map"} if has else {"global_pool": token, "fc_norm": False}
        yield Difference("attention pooling" if has else "no attention pooling", options, count, _POOLING)
    names = pair.foreign | pair.missing
    if "norm.weight" not in names and "fc_norm.weight" not in names:
        return
    count = pair.take(_is_norm, _is_norm)
    after, before = "fc_norm.weight" in pair.have, "norm.weight" in pair.have
    if after and not before:
        yield Difference("pooling by the mean, norm after it (fc_norm)", {"global_pool": "avg"}, count, _POOLING)
    elif before and not after and "fc_norm.weight" in pair.want:
        options = {"global_pool": "token"} if token == "token" else {"fc_norm": False}
        yield Difference("norm before the pool, not after it", options, count, _POOLING)
    elif before and not after:
        yield Difference("a final norm, the model has none", {"final_norm": True}, count, _BUILD)
    elif not before:
        yield Difference("no final norm", {"final_norm": False}, count, _BUILD)
    else:
        yield Difference(
            "a norm before the pool and one after it", {"final_norm": True, "fc_norm": True}, count, _BUILD
        )


def _is_norm(name: str) -> bool:
    return name.startswith(("norm.", "fc_norm."))


# Parts of a block that an option adds or takes away: tensors, the name in words, the option, its value with and without the part.
_PARTS: tuple[tuple[str, str, str, Any, Any], ...] = (
    (r"blocks\.\d+\.(ls[12]\.gamma|gamma_[12])", "layer scale", "init_values", 1e-5, None),
    (r"blocks\.\d+\.attn\.[qk]_norm\..+", "norms of queries and keys", "qk_norm", True, False),
    (
        r"blocks\.\d+\.attn\.(qkv\.bias|[qv]_bias|[qkv]_proj\.bias)",
        "biases of queries and values",
        "qkv_bias",
        True,
        False,
    ),
    (r"blocks\.\d+\.(attn\.proj|mlp\.fc\w+)\.bias", "biases of projections", "proj_bias", True, False),
    (r"norm_pre\..+|patch_embed\.proj\.bias", "a norm before the blocks", "pre_norm", True, False),
    (r"blocks\.\d+\.attn\.norm\..+", "a norm inside attention", "scale_attn_norm", True, False),
    (r"blocks\.\d+\.mlp\.norm\..+", "a norm inside the MLP", "scale_mlp_norm", True, False),
)
# Names of timm's layout that only some models have, with ``*`` for a number or without.
OPTIONAL = re.compile(
    "|".join(
        [
            *(pattern.replace(r"\d+", r"[\d*]+") for pattern, *_ in _PARTS),
            r"reg_token|fc_norm\..+|attn_pool\..+|head(_dist)?\..+",
        ]
    )
)
_EVA = {"scale_attn_norm": "scale_attn_inner", "scale_mlp_norm": "scale_mlp"}


def _parts(pair: _Pair) -> Iterator[Difference]:
    for pattern, words, option, with_, without in _PARTS:
        found = re.compile(pattern)
        here, there = (any(found.fullmatch(k) for k in names) for names in (pair.foreign, pair.missing))
        if option == "pre_norm":
            here, there = "norm_pre.weight" in pair.foreign, "norm_pre.weight" in pair.missing
        if here == there:  # neither has it, or each has it under other names
            continue
        count = pair.take(found.fullmatch, found.fullmatch)
        name = _EVA.get(option, option) if pair.module == "eva" else option
        text = f"{words}, the model has none" if here else f"no {words.removeprefix('a ')}"
        yield Difference(text, {name: with_ if here else without}, count, _BUILD)


def _mlp(pair: _Pair) -> Iterator[Difference]:
    first = "blocks.0.mlp.fc2.weight"
    if first not in pair.other or len(pair.have[first]) != 2 or _GATED & (pair.missing | pair.foreign):
        return
    old, new = pair.have[first][1], pair.want[first][1]
    wide = {k for k in pair.other if re.fullmatch(r"blocks\.\d+\.mlp\..+", k)}
    pair.other -= wide
    yield Difference(f"an MLP {old} wide, not {new}", {"mlp_ratio": old / pair.have[first][0]}, len(wide), _BUILD)


_GATED = {"blocks.0.mlp.fc1_g.weight", "blocks.0.mlp.fc1.weight"}


def _relative(pair: _Pair) -> Iterator[Difference]:
    shared, single = f"rel_pos_bias.{_TABLE}", rf"blocks\.\d+\.attn\.{_TABLE}"
    if shared in pair.foreign | pair.missing and pair.module == "beit":
        has, count = shared in pair.foreign, pair.take(shared.__eq__, shared.__eq__)
        count += pair.alone(single)[1]
        options = {"use_shared_rel_pos_bias": has, "use_rel_pos_bias": not has}
        yield Difference(
            f"{'one bias table for all blocks' if has else 'a bias table for each block'}", options, count, _BUILD
        )
    tables = {k for k in pair.other if k.endswith(_TABLE)}
    rows = {k for k in tables if pair.have[k][1:] == pair.want[k][1:]}
    if rows:
        pair.other -= rows
        name = min(rows)
        side = (isqrt(pair.have[name][0]) + 1) // 2
        pixels = tuple(side * p * s for p, s in zip(_patch(pair), pair.model.stride))
        option = None if "layers.0." in name else {"img_size": _size(pixels)}
        yield Difference(f"windows of {side}x{side} in its bias tables", option, len(rows), _SIZE)


def _heads(pair: _Pair) -> Iterator[Difference]:
    first, table = "blocks.0.attn.q_norm.weight", f"blocks.0.attn.{_TABLE}"
    shapes = pair.have, pair.want
    if first in pair.other:
        width = pair.have["blocks.0.attn.proj.weight"][0]
        old, new = (width // s[first][0] for s in shapes)
        names = r"blocks\.\d+\.attn\.[qk]_norm\..+"
    elif table in pair.other and pair.have[table][1:] != pair.want[table][1:]:
        old, new = (s[table][-1] for s in shapes)
        names = rf"blocks\.\d+\.attn\.{_TABLE}"
    else:
        return
    changed = {k for k in pair.other if re.fullmatch(names, k)}
    pair.other -= changed
    yield Difference(f"{old} heads, not {new}", {"num_heads": old}, len(changed), _BUILD)


def _training(pair: _Pair) -> Iterator[Difference]:
    names = sorted({k.partition(".")[0] for k in pair.foreign if _TRAINING.fullmatch(k)})
    count = pair.take(lambda k: False, _TRAINING.fullmatch)
    if count:
        yield Difference(f"parts that only pre-training uses ({', '.join(names)})", {}, count, _FREE)


def _unexplained(pair: _Pair) -> Iterator[Difference]:
    """Names that no option explains: a line for each name, with the block's number left out."""
    told: dict[str, list[int]] = {}
    for words, names in (("no {}", pair.missing), ("{}, which the model lacks", pair.foreign)):
        for name in sorted(names):
            told.setdefault(words.format(_BLOCK.sub("blocks.*.", name)), []).append(1)
    for name in sorted(pair.other):
        old, new = (" x ".join(map(str, s[name])) or "one number" for s in (pair.have, pair.want))
        told.setdefault(f"{_BLOCK.sub('blocks.*.', name)} is {old}, not {new}", []).append(1)
    for text, found in told.items():
        yield Difference(text, None, len(found), _FOREIGN + len(found) / 100)


_EXPLAINERS: tuple[Callable[[_Pair], Iterator[Difference]], ...] = (
    _blocks,
    _classifier,
    _kernel,
    _prefix,
    _positions,
    _pooling,
    _parts,
    _heads,
    _mlp,
    _relative,
    _training,
)
