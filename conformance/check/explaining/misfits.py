"""Compares a checkpoint's tensors with a model's, by name and shape, and says in words what would have to change.

A difference that ``timm.create_model`` can take away names the option that does. All tensors that one difference touches are
one :class:`Difference`. Names are those of a timm VisionTransformer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import isqrt
from typing import Any

from ...reference.destination import FIRST, KERNEL
from ...targets.architectures import Shapes
from . import block_misfits
from .keys import shown
from .pairing import BLOCK, BUILD, FOREIGN, FREE, POOLING, SIZE, Difference, Names, Pair, as_size, image_of

_GRID = "pos_embed"
# No model is built with a grid of more patches on a side.
_WIDEST = 1024
_HEADS = ("head.", "head_dist.")
_TRAINING = re.compile(r"(mask_token|(lm_head|decoder\w*)\..*|decoder_pos_embed)")


def differences(have: Names, model: Shapes, module: str, windowed: bool = False) -> list[Difference]:
    """What would have to change so that tensors of the shapes ``have`` fit a model of a timm ``module``. Cheapest first.

    ``windowed`` positions are a square of which a model reads a part, so their number tells nothing (``Format.windowed``).
    """
    pair = Pair(have, model, module)
    if windowed:
        pair.other.discard(_GRID)
    found = [d for explain in (*_EXPLAINERS, *block_misfits.EXPLAINERS) for d in explain(pair)]
    return sorted([*found, *_unexplained(pair)], key=lambda d: d.cost)


def _classifier(pair: Pair) -> Iterator[Difference]:
    have, want = map(_classes, (pair.have, pair.want))
    if have == want:
        return
    count = pair.take(lambda k: k.startswith(_HEADS), lambda k: k.startswith(_HEADS))
    changed = {k for k in pair.other if k.startswith(_HEADS)}
    pair.other -= changed
    text = f"{have or 'no'} classes, not {want}" if want else f"a classifier of {have} classes, the model has none"
    yield Difference(text, {"num_classes": have}, count + len(changed), FREE)


def _classes(shapes: Names) -> int:
    return next((shapes[k][0] for k in ("head.weight", "head.fc.weight") if shapes.get(k)), 0)


def _kernel(pair: Pair) -> Iterator[Difference]:
    for name in pair.other.intersection(FIRST):
        old, new = pair.have[name], pair.want[name]
        if len(old) != 4 or len(new) != 4 or old[0] != new[0] or (name != KERNEL and old[2:] != new[2:]):
            continue
        pair.other.discard(name)
        if old[1] != new[1]:
            yield Difference(f"{old[1]} input channels, not {new[1]}", {"in_chans": old[1]}, 1, SIZE)
        if old[2:] != new[2:]:
            text = "patch {}x{}, not {}x{}".format(*old[2:], *new[2:])
            yield Difference(text, {"patch_size": as_size(old[2:])}, 1, SIZE)


def _tokens(shapes: Names) -> tuple[int, int]:
    """The number of class and distillation tokens, and of register tokens."""
    special = sum(k in shapes for k in ("cls_token", "dist_token"))
    registers = shapes.get("reg_token", ())
    return special, registers[1] if len(registers) == 3 else 0


def _prefix(pair: Pair) -> Iterator[Difference]:
    eva = pair.module == "eva"
    if "cls_token" in pair.missing | pair.foreign and pair.module not in ("deit", "beit"):
        has, count = pair.alone("cls_token")
        options = {"class_token": has} if has else {"class_token": False, "global_pool": "avg"}
        yield Difference("a class token, the model has none" if has else "no class token", options, count, BUILD)
    old, new = _tokens(pair.have)[1], _tokens(pair.want)[1]
    if old != new:
        touched = {"reg_token"} & (pair.missing | pair.foreign | pair.other)
        for names in (pair.missing, pair.foreign, pair.other):
            names.discard("reg_token")
        name = "num_reg_tokens" if eva else "reg_tokens"
        yield Difference(f"{old or 'no'} register tokens, not {new}", {name: old}, len(touched), BUILD)


def _positions(pair: Pair) -> Iterator[Difference]:
    if _GRID in pair.foreign | pair.missing:
        has, count = pair.alone(_GRID)
        options = (
            {"use_abs_pos_emb": has} if pair.module in ("eva", "beit") else {"pos_embed": "learn" if has else "none"}
        )
        yield Difference("positions, the model has none" if has else "no positions", options, count, BUILD)
        return
    old, new = pair.have.get(_GRID, ()), pair.want.get(_GRID, ())
    if _GRID not in pair.other or not len(old) == len(new) == 3 or old[2] != new[2]:
        return
    pair.other.discard(_GRID)
    prefix, patches = sum(_tokens(pair.have)), pair.model.grid_size[0] * pair.model.grid_size[1]
    inside = new[1] != patches  # the model has rows for its prefix tokens
    for rows in dict.fromkeys((prefix if inside else 0, prefix, 0)):
        side = isqrt(max(old[1] - rows, 0))
        if old[1] - rows != patches and (not 0 < side < _WIDEST or side * side != old[1] - rows):
            continue
        resized = {} if old[1] - rows == patches else {"img_size": image_of(pair, side)}
        if bool(rows) != inside and prefix:
            text = "positions of the prefix tokens, too" if rows else "positions of the patches alone"
            yield Difference(text, {"no_embed_class": not rows, **resized}, 1, BUILD)
        elif resized:
            grid = "{}x{}".format(*pair.model.grid_size)
            yield Difference(f"grid {side}x{side}, not {grid}", resized, 1, SIZE)
        return
    yield Difference(f"{old[1]} rows of positions, not {new[1]}", None, 1, FOREIGN)


def _pooling(pair: Pair) -> Iterator[Difference]:
    token = "token" if "cls_token" in pair.have else "avg"
    if "attn_pool.latent" in pair.foreign | pair.missing:
        has, count = pair.alone(r"attn_pool\..+")
        options: dict[str, Any] = {"global_pool": "map"} if has else {"global_pool": token, "fc_norm": False}
        yield Difference("attention pooling" if has else "no attention pooling", options, count, POOLING)
    names = pair.foreign | pair.missing
    if "norm.weight" not in names and "fc_norm.weight" not in names:
        return
    count = pair.take(_is_norm, _is_norm)
    after, before = "fc_norm.weight" in pair.have, "norm.weight" in pair.have
    if after and not before:
        yield Difference("pooling by the mean, norm after it (fc_norm)", {"global_pool": "avg"}, count, POOLING)
    elif before and not after and "fc_norm.weight" in pair.want:
        options = {"global_pool": "token"} if token == "token" else {"fc_norm": False}
        yield Difference("norm before the pool, not after it", options, count, POOLING)
    elif before and not after:
        yield Difference("a final norm, the model has none", {"final_norm": True}, count, BUILD)
    elif not before:
        yield Difference("no final norm", {"final_norm": False}, count, BUILD)
    else:
        yield Difference("a norm before the pool and one after it", {"final_norm": True, "fc_norm": True}, count, BUILD)


def _is_norm(name: str) -> bool:
    return name.startswith(("norm.", "fc_norm."))


def _training(pair: Pair) -> Iterator[Difference]:
    names = sorted({k.partition(".")[0] for k in pair.foreign if _TRAINING.fullmatch(k)})
    count = pair.take(lambda k: False, _TRAINING.fullmatch)
    if count:
        yield Difference(f"parts that only pre-training uses ({', '.join(names)})", {}, count, FREE)


def _unexplained(pair: Pair) -> Iterator[Difference]:
    """Names that no option explains: a line for each name, with the block's number left out where it is in several blocks."""
    told: dict[tuple[str, str], list[str]] = {}
    for words, names in (("no {}", pair.missing), ("{}, which the model lacks", pair.foreign)):
        for name in sorted(names):
            told.setdefault((words, BLOCK.sub("blocks.*.", name)), []).append(name)
    for name in sorted(pair.other):
        old, new = (" x ".join(map(str, s[name])) or "one number" for s in (pair.have, pair.want))
        told.setdefault((f"{{}} is {old}, not {new}", BLOCK.sub("blocks.*.", name)), []).append(name)
    for (words, pattern), found in told.items():
        text = words.format(shown(pattern if len(found) > 1 else found[0]))
        yield Difference(text, None, len(found), FOREIGN + len(found) / 100)


_EXPLAINERS: tuple[Callable[[Pair], Iterator[Difference]], ...] = (
    _classifier,
    _kernel,
    _prefix,
    _positions,
    _pooling,
    _training,
)
