"""Single causes: what one thing makes a checkpoint unusable, or another form of a model, whatever number of tensors it touches.

They are told from names, shapes and dtypes alone, before any format is recognised. A cause that ``stops`` has to be undone before
any loader can use the file; the others are parts that a loader may drop or convert.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from .keys import few
from .shards import missing_parts


@dataclass(frozen=True)
class Cause:
    """One cause. ``kind`` is its stable name, ``text`` what the file has, ``to_do`` what to do about it.

    ``tensors`` is the number of tensors that it touches, ``keys`` are patterns of a few that tell it. ``stops`` says that nothing
    can be loaded before it is undone.
    """

    kind: str
    text: str
    to_do: str
    tensors: int
    keys: tuple[str, ...]
    stops: bool = True


State = Mapping[str, Any]

# Dtypes that need a scale, or are packed. Buffers of indices are int64.
_PACKED = {"torch.int8", "torch.uint8", *(str(d) for n, d in vars(torch).items() if n.startswith("float8"))}
# Names that quantising libraries give, the most specific first.
_SCHEMES: tuple[tuple[str, str], ...] = (
    ("bitsandbytes, 8 bits", r"(.+\.)?(SCB|weight_format)"),
    ("bitsandbytes, 4 bits", r"(.+\.)?weight\.(nested_)?(absmax|quant_map)|.+\.quant_state\..+"),
    ("compressed-tensors", r"(.+\.)?weight_(packed|zero_point)"),
    ("GPTQ", r"(.+\.)?g_idx"),
    ("GPTQ or AWQ", r"(.+\.)?(qweight|qzeros)"),
    ("HQQ", r"(.+\.)?W_q"),
    ("optimum-quanto", r"(.+\.)?weight\._(data|scale|shift)"),
    (
        "torch.ao.quantization",
        r"(.+\.)?(_packed_params(\..+)?|zero_point|(activation_post_process|weight_fake_quant)\..+)",
    ),
    ("torchao", r".+[:._](qdata|int_data)"),
)


def single_causes(state: State) -> list[Cause]:
    """The causes that the entries of a state dict show, those that stop any loader first.

    ``state`` has names as they stand in the file, without wrapper. Entries that are no tensors are allowed.
    """
    found = [cause for tell in _TELLERS for cause in tell(state)]
    return sorted(found, key=lambda cause: not cause.stops)


def _tensors(state: State) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def _matching(state: Iterable[str], pattern: str) -> list[str]:
    found = re.compile(pattern)
    return [k for k in state if found.fullmatch(k)]


def _quantised(state: State) -> Iterator[Cause]:
    packed = [k for k, v in _tensors(state).items() if v.is_quantized or (str(v.dtype) in _PACKED and v.ndim > 1)]
    named = {scheme: hits for scheme, pattern in _SCHEMES if (hits := _matching(state, pattern))}
    if not packed and not named:
        return
    scheme = next(iter(named), "")
    dtypes = sorted({str(state[k].dtype).removeprefix("torch.") for k in packed})
    beside = list(dict.fromkeys(k for hits in named.values() for k in hits if k not in packed))
    beside = beside or [k for k in state if k not in packed and re.search(r"(^|[._])scale(s|_inv)?$", k)]
    keys = (*few(packed, 2), *few(beside, 2))
    what = f"{len(packed)} tensors are {', '.join(dtypes)}" if packed else "its weights are packed"
    scales = f", with scales beside them ({', '.join(few(beside, 2))})" if beside else f" ({', '.join(keys)})"
    by = f" as {scheme} stores it" if scheme else ""
    yield Cause(
        "quantised",
        f"quantised weights{by}: {what}{scales}",
        "weights are floating-point numbers: take the file that this one was made from, or load it with the library that wrote "
        "it, dequantise, and save the state_dict again",
        len({*packed, *beside}),
        keys,
    )


def _placeholders(state: State) -> Iterator[Cause]:
    tensors = _tensors(state)
    empty = [k for k, v in tensors.items() if v.shape == (0,)]
    if 2 * len(empty) > len(tensors):
        yield Cause(
            "placeholders",
            f"{len(empty)} of {len(tensors)} tensors are empty placeholders of shape (0,), as DeepSpeed ZeRO-3 saves them: "
            "the values are in other files",
            "gather the values first: python zero_to_fp32.py FOLDER OUT, the script that DeepSpeed leaves beside the checkpoint",
            len(empty),
            few(empty),
        )
    flat = [k for k in state if re.search(r"(^|\.)_?flat_param(_\d+)?$", k)]
    if flat:
        yield Cause(
            "flat-parameters",
            f"{len(flat)} flat parameters of FSDP ({', '.join(few(flat, 2))}), each of them all tensors of a module in one row",
            "save the training state again with StateDictType.FULL_STATE_DICT",
            len(flat),
            few(flat),
        )


_ADAPTERS: tuple[tuple[str, str], ...] = (
    ("DoRA", r"(.+\.)?lora_magnitude_vector(\..+)?"),
    ("LoRA", r"(.+\.)?lora_(A|B|E|embedding_A|embedding_B|down|up)(\..+)?"),
    ("LoRA", r"(.+\.)?(w_[ab]_\d+|linear_[ab]_[qkv]\.weight)"),  # SAMed, in its file and in its model
    ("IA3", r"(.+\.)?ia3_l(\..+)?"),
    ("LoHa", r"(.+\.)?hada_\w+(\..+)?"),
    ("LoKr", r"(.+\.)?lokr_\w+(\..+)?"),
    ("VeRA", r"(.+\.)?vera_\w+(\..+)?"),
    ("OFT", r"(.+\.)?oft_[rs](\..+)?"),
)
_WRAPPED = r".+\.(base_layer|original_layer)\..+"


def _adapters(state: State) -> Iterator[Cause]:
    named = {kind: hits for kind, pattern in _ADAPTERS if (hits := _matching(state, pattern))}
    adapters = {k for hits in named.values() for k in hits}
    wrapped = _matching(state, _WRAPPED)
    if not adapters and not wrapped:
        return
    kind = next(iter(named), "LoRA")
    keys = (*few([k for k in state if k in adapters], 2), *few(wrapped, 1))
    if wrapped or len(state) > 2 * len(adapters):
        text = f"{kind} adapters beside the weights, not merged into them: {len(adapters)} tensors ({', '.join(keys)})"
        to_do = "merge them first: model.merge_and_unload() of PEFT returns the plain model, whose state_dict loads"
    else:
        text = (
            f"{kind} adapters alone, {len(adapters)} tensors ({', '.join(keys)}), without the weights that they change"
        )
        to_do = "load the base model, then PeftModel.from_pretrained(base, FOLDER).merge_and_unload(), and save its state_dict"
    yield Cause("adapters", text, to_do, len(adapters) + len(wrapped), keys)


def _shard(state: State) -> Iterator[Cause]:
    if any(True for _ in (*_adapters(state), *_placeholders(state))):
        return  # they have no blocks of their own to count
    missing = missing_parts({k: v.ndim for k, v in _tensors(state).items()})
    if missing:
        yield Cause(
            "shard",
            f"a part of a model: {'; '.join(missing)}",
            "it is one shard of several: put the tensors of all of them into one dict, and save that",
            len(state),
            few(state),
        )


def _video(state: State) -> Iterator[Cause]:
    for name, tensor in _tensors(state).items():
        if tensor.ndim == 5:
            frames = tensor.shape[2]
            yield Cause(
                "video-kernel",
                f"a video model: {name} is {tuple(tensor.shape)}, a kernel over {frames} frames",
                f"timm's Vision Transformers read images, load it with the code that wrote it; {name}.sum(2) is the kernel for "
                f"one image in all {frames} frames, but positions and attention remain a video's",
                1,
                (name,),
            )
            return


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
        found = _matching(state, pattern)
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


def _more_tokens(state: State) -> Iterator[Cause]:
    tensors = _tensors(state)
    position = next((v for k, v in tensors.items() if k.rpartition(".")[2] in _POSITIONS and v.ndim == 3), None)
    if position is None:
        return
    for name, tensor in tensors.items():
        token = tensor.ndim == 3 and len(tensor) == 1 and tensor.shape[2] == position.shape[2] and "token" in name
        if not token or _TOKENS.fullmatch(name):
            continue
        count, rows = tensor.shape[1], position.shape[1]
        known = sum(v.shape[1] for k, v in tensors.items() if v.ndim == 3 and re.search(r"(cls|dist|reg)_token$", k))
        side = isqrt(max(rows - known - count, 0))
        square = side and side * side + known + count == rows
        told = (
            f"{rows} rows of positions are {side}x{side} + {known} + {count}" if square else f"{rows} rows of positions"
        )
        yield Cause(
            "more-tokens",
            f"{count} token{'s' if count > 1 else ''} more than timm's models have: {name} {tuple(tensor.shape)}; {told}",
            f"only its own code says which row is {name}'s: drop both for a model without it, or name it reg_token and pass "
            f"reg_tokens={count}",
            1,
            (name,),
            stops=False,
        )


# Forms of pre-training: kind, a pattern that must be there, all patterns that belong to it, what it is, what to do.
_FORMS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "shared-table",
        r"(.*\b)?rel_pos_bias\.relative_position_bias_table",
        r"(.*\b)?(rel_pos_bias\..+|mask_token|lm_head\..+)",
        "BEiT pre-training: one table of relative positions for all blocks",
        "copy the shared table to blocks.N.attn.relative_position_bias_table of every block, or ask for a model with "
        "use_shared_rel_pos_bias=True, use_rel_pos_bias=False; drop lm_head and mask_token; it has no classifier",
    ),
    (
        "decoder",
        r"(.*\b)?(decoder_blocks|decoder_layers|decoder\.blocks)\..+",
        r"(.*\b)?(mask_token|decoder\w*(\..+)?|encoder_to_decoder\..+)",
        "masked autoencoder pre-training, with its decoder",
        "keep the encoder: drop the decoder and the mask token; it has no classifier",
    ),
    (
        "head-of-pre-training",
        r"(.*\b)?(lm_head|mim_head)\..+",
        r"(.*\b)?((lm_head|mim_head)\..+|mask_token)",
        "masked image modelling, with the head that predicts visual tokens",
        "drop lm_head and mask_token: neither is the classifier; it has none",
    ),
    (
        "self-distillation",
        r"(.*\b)?(dino_head|ibot_head|dino_loss|ibot_patch_loss)\b.*",
        r"(.*\b)?(dino_head|ibot_head|dino_loss|ibot_patch_loss)\b.*",
        "self-distillation (DINO, iBOT), with its heads",
        "keep the backbone: drop the heads; none of them is a classifier",
    ),
)


def _forms(state: State) -> Iterator[Cause]:
    told: set[str] = set()
    for kind, needed, parts, what, to_do in _FORMS:
        if not _matching(state, needed):
            continue
        found = [k for k in _matching(state, parts) if k not in told]
        if kind == "head-of-pre-training" and "shared-table" in told:
            continue
        told |= {kind, *found}
        text = f"{what} ({', '.join(few(found))}; {len(found)} tensors)"
        yield Cause(kind, text, to_do, len(found), few(found), stops=False)


_TELLERS: tuple[Callable[[State], Iterator[Cause]], ...] = (
    _quantised,
    _placeholders,
    _adapters,
    _shard,
    _video,
    _renamed,
    _more_tokens,
    _forms,
)
