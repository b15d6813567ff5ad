"""Tells a shard, one of several files of a model, from a whole checkpoint, by its blocks and by what comes before them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

# The lists of blocks of all formats and of common libraries, with the number of a block behind them.
_BLOCK = re.compile(r"((?:.*\.)?(?:blocks|layers|layer|resblocks|h|encoder_layers))\.(\d{1,4})\.(.+)")
# What begins with an image: a convolution, or a linear layer of these names.
_FIRST = re.compile(r"patch|embeds\.|embedding|conv_proj|conv1\b|stem", re.IGNORECASE)
# A language model has no image to begin with.
_WORDS = re.compile(r"token_embedding|word_embeddings|embed_tokens|\bwte\b")
# Fewer tensors are no block of a transformer.
_TENSORS = 6


def missing_parts(ndims: Mapping[str, int]) -> list[str]:
    """What tells that these tensors (name to number of axes) are a part of a model only, in words; empty for a whole one."""
    blocks = _blocks(ndims)
    if not blocks:
        return []
    numbers = sorted(blocks)
    found = []
    if numbers[0] > 0:
        found.append(f"blocks {numbers[0]} to {numbers[-1]}, none before")
    elif gaps := [n for n in range(numbers[-1]) if n not in blocks]:
        found.append(f"blocks {', '.join(map(str, gaps[:4]))} of {numbers[-1] + 1} are not in it")
    common = Counter(blocks.values()).most_common(1)[0][0]
    edges = [n for n in dict.fromkeys((numbers[0], numbers[-1])) if blocks[n] < common]
    if edges and len(numbers) > len(edges) + 1 and all(blocks[n] == common for n in numbers if n not in edges):
        found += [f"block {n} has {len(blocks[n])} of {len(common)} tensors" for n in edges]
    image = any(n > 3 for n in ndims.values()) or any(_FIRST.search(k) for k in ndims)
    if not image and not any(_WORDS.search(k) for k in ndims):
        found.append("no patch embedding")
    return found


def _blocks(names: Mapping[str, int]) -> dict[int, frozenset[str]]:
    """The tensors of each block, of the list of blocks with the most tensors, by number.

    Lists that differ in numbers alone are one list: the stages of Swin, the chunks in which FSDP saves DINOv2.
    """
    lists: dict[str, dict[int, set[str]]] = {}
    for name in names:
        if found := _BLOCK.fullmatch(name):
            owner = re.sub(r"\b\d+\b", "*", found[1])
            inner = re.match(r"(\d{1,4})\.(.+)", found[3])  # chunks have a number of their own before the block's
            number, rest = (inner[1], inner[2]) if inner else (found[2], found[3])
            lists.setdefault(owner, {}).setdefault(int(number), set()).add(rest)
    largest = max(lists.values(), key=lambda blocks: sum(map(len, blocks.values())), default={})
    if len(largest) < 1 or max(map(len, largest.values()), default=0) < _TENSORS:
        return {}
    return {n: frozenset(names) for n, names in largest.items()}
