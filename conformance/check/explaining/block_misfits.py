"""What would have to change in the blocks of a model so that a checkpoint's tensors fit (:mod:`.misfits`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from math import isqrt
from typing import Any

from ...reference.errors import some
from .pairing import BLOCK, BUILD, DEPTH, FOREIGN, SIZE, Difference, Pair, image_of, num_blocks

_TABLE = "relative_position_bias_table"
# No model is built with more blocks, nor with larger windows.
_DEEPEST = 256
_AXES = (".rel_pos_h", ".rel_pos_w")


def _blocks(pair: Pair) -> Iterator[Difference]:
    old, new = num_blocks(pair.have), num_blocks(pair.want)
    if old != new and any(k.startswith("blocks.") for k in pair.want):

        def beyond(name: str) -> bool:
            found = BLOCK.match(name)
            return found is not None and int(found[1]) >= min(old, new)

        options = {"depth": old} if old <= _DEEPEST else None
        yield Difference(f"{old} blocks, not {new}", options, pair.take(beyond, beyond), DEPTH + abs(old - new))


def _incomplete(pair: Pair) -> Iterator[Difference]:
    """Tensors that some blocks of the checkpoint have and others lack. No option makes a model of such blocks."""
    have: dict[str, set[int]] = {}
    for number, rest in _in_blocks(pair.have):
        have.setdefault(rest, set()).add(number)
    lacking: dict[tuple[int, ...], list[str]] = {}
    gaps: dict[str, set[int]] = {}
    for number, rest in _in_blocks(pair.missing):
        if rest in have:
            gaps.setdefault(rest, set()).add(number)
    for rest, numbers in gaps.items():
        lacking.setdefault(tuple(sorted(numbers)), []).append(rest)
    for blocks, names in sorted(lacking.items()):
        gone = {f"blocks.{n}.{rest}" for n in blocks for rest in names}
        others = len(set.intersection(*(have[rest] for rest in names)))
        where = f"block{'s' if len(blocks) > 1 else ''} {some([str(n) for n in blocks])}"
        held = f", which {others} other block{'s have' if others > 1 else ' has'}" if others else ""
        yield Difference(
            f"no {some(sorted(names))} in {where}{held}",
            None,
            pair.take(gone.__contains__, lambda name: False),
            FOREIGN + len(gone) / 100,
        )


def _in_blocks(names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The number of the block of each name in one, and the rest of the name."""
    for name in names:
        if (found := BLOCK.match(name)) is not None:
            yield int(found[1]), name[found.end() :]


# Parts of a block that an option adds or takes away: tensors, the name in words, the option, its value with and without the part.
_PARTS: tuple[tuple[str, str, str, Any, Any], ...] = (
    # create_model leaves out what is None: the model would have its own.
    (r"blocks\.\d+\.(ls[12]\.gamma|gamma_[12])", "layer scale", "init_values", 1e-5, 0.0),
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


def _parts(pair: Pair) -> Iterator[Difference]:
    for pattern, words, option, with_, without in _PARTS:
        found = re.compile(pattern)
        here, there = (any(found.fullmatch(k) for k in names) for names in (pair.foreign, pair.missing))
        if option == "pre_norm":
            here, there = "norm_pre.weight" in pair.foreign, "norm_pre.weight" in pair.missing
        if here == there:  # neither has it, or each has it under other names
            continue
        if option != "pre_norm" and any(found.fullmatch(k) for k in pair.have.keys() & pair.want.keys()):
            continue  # both have a part of it
        if not _of_all_blocks(pair, [k for k in (pair.foreign if here else pair.missing) if found.fullmatch(k)]):
            continue
        count = pair.take(found.fullmatch, found.fullmatch)
        name = _EVA.get(option, option) if pair.module == "eva" else option
        text = f"{words}, the model has none" if here else f"no {words.removeprefix('a ')}"
        yield Difference(text, {name: with_ if here else without}, count, BUILD)


def _of_all_blocks(pair: Pair, names: Iterable[str]) -> bool:
    """Whether names are of as many blocks as checkpoint and model share, or of none."""
    blocks = {number for number, _ in _in_blocks(names)}
    return len(blocks) in (0, min(num_blocks(pair.have), num_blocks(pair.want)))


def _mlp(pair: Pair) -> Iterator[Difference]:
    first = "blocks.0.mlp.fc2.weight"
    if first not in pair.other or len(pair.have[first]) != 2 or _GATED & (pair.missing | pair.foreign):
        return
    old, new = pair.have[first][1], pair.want[first][1]
    wide = {k for k in pair.other if re.fullmatch(r"blocks\.\d+\.mlp\..+", k)}
    pair.other -= wide
    yield Difference(f"an MLP {old} wide, not {new}", {"mlp_ratio": old / pair.have[first][0]}, len(wide), BUILD)


_GATED = {"blocks.0.mlp.fc1_g.weight", "blocks.0.mlp.fc1.weight"}


def _relative(pair: Pair) -> Iterator[Difference]:
    shared, single = f"rel_pos_bias.{_TABLE}", rf"blocks\.\d+\.attn\.{_TABLE}"
    if shared in pair.foreign | pair.missing and pair.module == "beit":
        has, count = shared in pair.foreign, pair.take(shared.__eq__, shared.__eq__)
        count += pair.alone(single)[1]
        options = {"use_shared_rel_pos_bias": has, "use_rel_pos_bias": not has}
        text = "one bias table for all blocks" if has else "a bias table for each block"
        yield Difference(text, options, count, BUILD)
    tables = {k for k in pair.other if k.endswith((_TABLE, *_AXES))}
    rows = {k for k in tables if pair.have[k][1:] == pair.want[k][1:]}
    if rows:
        pair.other -= rows
        longest = max(pair.have[k][0] for k in rows)
        side = ((longest if all(k.endswith(_AXES) for k in rows) else isqrt(longest)) + 1) // 2
        staged = any(k.startswith("layers.") for k in rows)
        sizes: dict[str, Any] = {"img_size": image_of(pair, side)}
        if staged:  # the last of four stages is one window
            sizes = {"window_size": side, "img_size": image_of(pair, 8 * side)}
        known = sizes if side <= _DEEPEST else None
        yield Difference(f"relative positions of {side}x{side} windows", known, len(rows), SIZE)


def _heads(pair: Pair) -> Iterator[Difference]:
    norm, table, last = "blocks.0.attn.q_norm.weight", f"blocks.0.attn.{_TABLE}", "blocks.0.attn.rel_pos.mlp.fc2.bias"
    width, shapes = pair.have.get("blocks.0.norm1.weight", ()), (pair.have, pair.want)
    if norm in pair.other and all(len(s[norm]) == 1 and s[norm][0] for s in shapes) and len(width) == 1:
        old, new = (width[0] // s[norm][0] for s in shapes)
        names = r"blocks\.\d+\.attn\.[qk]_norm\..+"
    elif table in pair.other and all(len(s[table]) == 2 for s in shapes):
        old, new = (s[table][1] for s in shapes)
        names = rf"blocks\.\d+\.attn\.{_TABLE}"
    elif last in pair.other and all(len(s[last]) == 1 for s in shapes):
        old, new = (s[last][0] for s in shapes)
        names = r"blocks\.\d+\.attn\.rel_pos\.mlp\.fc2\..+"
    else:
        return
    changed = {k for k in pair.other if re.fullmatch(names, k)}
    pair.other -= changed
    yield Difference(f"{old} heads, not {new}", {"num_heads": old}, len(changed), BUILD)


EXPLAINERS: tuple[Callable[[Pair], Iterator[Difference]], ...] = (_blocks, _incomplete, _parts, _mlp, _relative, _heads)
