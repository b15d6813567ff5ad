"""Single causes: what one thing makes a checkpoint unusable, or another form of a model, whatever number of tensors it touches.

They are told from names, shapes and dtypes alone, before any format is recognised. A cause that ``stops`` has to be undone before
any loader can use the file; the others are parts that a loader may drop or convert.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from math import isqrt
from typing import Any

from . import storage
from .cause import Cause, State, matching, tensors_of
from .keys import LONGEST, few, shown
from .left_out import wrapped_names


def single_causes(content: Mapping[Any, Any]) -> list[Cause]:
    """The causes that the entries of a state dict show, those that stop any loader first.

    ``content`` has names as they stand in the file, without wrapper. Entries that are no tensors are allowed.
    """
    state = {k: v for k, v in content.items() if isinstance(k, str) and len(k) <= LONGEST}
    found = [cause for tell in (*storage.TELLERS, *_TELLERS) for cause in tell(state)]
    return sorted(found, key=lambda cause: not cause.stops)


def _video(state: State) -> Iterator[Cause]:
    for name, tensor in tensors_of(state).items():
        if tensor.ndim == 5:
            frames, key = tensor.shape[2], shown(name)
            yield Cause(
                "video-kernel",
                f"a video model: {key} is {tuple(tensor.shape)}, a kernel over {frames} frames",
                f"timm's Vision Transformers read images, load it with the code that wrote it; {key}.sum(2) is the kernel for "
                f"one image in all {frames} frames, but positions and attention remain a video's",
                1,
                (key,),
            )
            return


def _transposed(state: State) -> Iterator[Cause]:
    """Linear layers whose bias is as long as the second axis of the weight: stored in x out, as Flax and TensorFlow do.

    A square weight does not tell. GPT-2's layers are of this kind by design.
    """
    tensors = tensors_of(state)
    if any(".c_attn." in name for name in tensors):
        return
    layers = {k: (v.shape, tensors.get(f"{k.removesuffix('weight')}bias")) for k, v in tensors.items()}
    known = {
        k: (shape, len(bias))
        for k, (shape, bias) in layers.items()
        if k.endswith(".weight") and len(shape) == 2 and bias is not None and bias.ndim == 1 and len(bias) in shape
    }
    found = [k for k, ((rows, columns), out) in known.items() if rows != columns and out == columns]
    if found:
        square = sum(rows == columns for (rows, columns), _ in known.values())
        many = len(found) > 1
        yield Cause(
            "transposed",
            f"the weight{'s' if many else ''} of {len(found)} linear layer{'s' if many else ''} {'are' if many else 'is'} "
            f"transposed, in x out ({', '.join(few(found))}){f'; {square} square ones do not tell' if square else ''}",
            "transpose the weights of the linear layers, v.t(), and save them again"
            + ("; the square ones as well, if the same code wrote them" if square else ""),
            len(found),
            few(found),
        )


# Names of parameters that timm spells differently: pattern, what it is, timm's spelling, what else has to be done.
_SPELLINGS: tuple[tuple[str, str, str, str], ...] = (
    (r"(.*\b)?blocks\.\d+\.ls[12]\.(weight|scale|lambda1?|grandma)", "layer scale", "ls*.gamma", ""),
    (r"(.*\b)?blocks\.\d+\.ls[12]", "layer scale", "ls*.gamma", ""),
    (r"(.*\b)?blocks\.\d+\.layer_?scale_?[12](\.\w+)?", "layer scale", "ls*.gamma", ""),
    (r".*(norm|ln|LayerNorm)_?\w*\.(gamma|beta)", "norms", ".weight and .bias", ""),
    (r"(.*\b)?blocks\.\d+\..*\.kernel", "weights", ".weight", ", and transpose them"),
    (
        r"(.*\b)?blocks\.\d+\..*(weight_[gv]|parametrizations\.weight\.original[01])",
        "weights in two parts (weight norm)",
        ".weight",
        " after remove_parametrizations",
    ),
)


def _renamed(state: State) -> Iterator[Cause]:
    if any("radio_model." in k for k in state):
        return  # RADIO's own spelling, which its format knows
    for pattern, what, right, more in _SPELLINGS:
        found = matching(state, pattern)
        if found:
            yield Cause(
                "renamed",
                f"{what} under another name: {', '.join(few(found, 2))} ({len(found)} tensors), which timm calls {right}",
                f"rename them to {right}{more}: one line for all {len(found)}",
                len(found),
                few(found),
            )


_POSITIONS = ("pos_embed", "position_embedding", "position_embeddings", "positional_embedding")
_TOKENS = re.compile(r"(.*\.)?(cls|dist|reg|register|storage|mask|class)_(token|tokens|embedding)(\..*)?")
_MORE = re.compile(r"token|register|prompt|quer(y|ies)")


def _more_tokens(state: State) -> Iterator[Cause]:
    tensors = tensors_of(state)
    position = next((v for k, v in tensors.items() if k.rpartition(".")[2] in _POSITIONS and v.ndim == 3), None)
    if position is None:
        return
    for name, tensor in tensors.items():
        token = tensor.ndim == 3 and len(tensor) == 1 and tensor.shape[2] == position.shape[2] and _MORE.search(name)
        if not token or _TOKENS.fullmatch(name):
            continue
        count, rows, key = tensor.shape[1], position.shape[1], shown(name)
        known = sum(v.shape[1] for k, v in tensors.items() if v.ndim == 3 and re.search(r"(cls|dist|reg)_token$", k))
        side = isqrt(max(rows - known - count, 0))
        square = side and side * side + known + count == rows
        told = (
            f"{rows} rows of positions are {side}x{side} + {known} + {count}" if square else f"{rows} rows of positions"
        )
        yield Cause(
            "more-tokens",
            f"{count} token{'s' if count > 1 else ''} more than timm's models have: {key} {tuple(tensor.shape)}; {told}",
            f"only its own code says which row is {key}'s: drop both for a model without it, or name it reg_token and pass "
            f"reg_tokens={count}",
            1,
            (key,),
            stops=False,
        )


# Forms of pre-training: kind, patterns that must be there, a pattern of all that belongs to it, what it is, what to do.
_FORMS: tuple[tuple[str, tuple[str, ...], str, str, str], ...] = (
    (
        "shared-table",
        (r"(.*\b)?rel_pos_bias\.relative_position_bias_table", r"(.*\b)?(mask_token|lm_head\..+)"),
        r"(.*\b)?(rel_pos_bias\..+|mask_token|lm_head\..+)",
        "BEiT pre-training: one table of relative positions for all blocks",
        "it has no classifier and no norm after the pool: with --num-classes 0 --option global_pool=token, --fix copies the "
        "shared table to every block, as BEiT's fine-tuning does, and drops lm_head and mask_token",
    ),
    (
        "decoder",
        (r"(.*\b)?(decoder_blocks|decoder_layers|decoder\.blocks)\..+",),
        r"(.*\b)?(mask_token|decoder\w*(\..+)?|encoder_to_decoder\..+)",
        "masked autoencoder pre-training, with its decoder",
        "keep the encoder: drop the decoder and the mask token; it has no classifier",
    ),
    (
        "head-of-pre-training",
        (r"(.*\b)?(lm_head|mim_head)\..+",),
        r"(.*\b)?((lm_head|mim_head)\..+|mask_token)",
        "masked image modelling, with the head that predicts visual tokens",
        "drop lm_head and mask_token: neither is the classifier; it has none",
    ),
    (
        "self-distillation",
        (r"(.*\b)?(dino_head|ibot_head|dino_loss|ibot_patch_loss)\b.*",),
        r"(.*\b)?(dino_head|ibot_head|dino_loss|ibot_patch_loss)\b.*",
        "self-distillation (DINO, iBOT), with its heads",
        "keep the backbone: drop the heads; none of them is a classifier",
    ),
)


def _forms(state: State) -> Iterator[Cause]:
    told: set[str] = set()
    for kind, needed, parts, what, to_do in _FORMS:
        found = matching(state, parts)
        if told.issuperset(found) or not all(matching(state, pattern) for pattern in needed):
            continue
        told.update(found)
        text = f"{what} ({', '.join(few(found))}; {len(found)} tensors)"
        yield Cause(kind, text, to_do, len(found), few(found), stops=False)


_TELLERS: tuple[Callable[[State], Iterator[Cause]], ...] = (
    _video,
    _transposed,
    _renamed,
    _more_tokens,
    _forms,
    wrapped_names,
)
