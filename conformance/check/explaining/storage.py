"""Causes for which a file does not hold a model's weights: quantised, elsewhere, in adapters, or in other shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch

from .cause import Cause, State, matching, tensors_of
from .keys import few
from .shards import missing_parts

# Dtypes that need a scale, or are packed. Buffers of indices are int64.
_PACKED = {"torch.int8", "torch.uint8", *(str(d) for n, d in vars(torch).items() if n.startswith("float8"))}
# Names that quantising libraries give, the most specific first.
_SCHEMES: tuple[tuple[str, str], ...] = (
    ("bitsandbytes (8 bits)", r"(.+\.)?(SCB|weight_format)"),
    ("bitsandbytes (4 bits)", r"(.+\.)?weight\.(nested_)?(absmax|quant_map)|.+\.quant_state\..+"),
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


def _quantised(state: State) -> Iterator[Cause]:
    packed = [k for k, v in tensors_of(state).items() if v.is_quantized or (str(v.dtype) in _PACKED and v.ndim > 1)]
    named = {scheme: hits for scheme, pattern in _SCHEMES if (hits := matching(state, pattern))}
    if not packed and not named:
        return
    scheme = next(iter(named), "")
    dtypes = sorted({str(state[k].dtype).removeprefix("torch.") for k in packed})
    beside = list(dict.fromkeys(k for hits in named.values() for k in hits if k not in packed))
    beside = beside or [k for k in state if k not in packed and re.search(r"(^|[._])scale(s|_inv)?$", k)]
    keys = (*few(packed, 2), *few(beside, 2))
    what = f"{len(packed)} tensors are {', '.join(dtypes)}" if packed else "its weights are packed"
    scales = f", with scales beside them ({', '.join(few(beside, 2))})" if beside else f" ({', '.join(keys)})"
    by = f" of {scheme}" if scheme else ""
    yield Cause(
        "quantised",
        f"quantised weights{by}: {what}{scales}",
        "weights are floating-point numbers: take the file that this one was made from, or load it with the library that wrote "
        "it, dequantise, and save the state_dict again",
        len({*packed, *beside}),
        keys,
    )


def _placeholders(state: State) -> Iterator[Cause]:
    tensors = tensors_of(state)
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
    named = {kind: hits for kind, pattern in _ADAPTERS if (hits := matching(state, pattern))}
    adapters = {k for hits in named.values() for k in hits}
    wrapped = matching(state, _WRAPPED)
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
    missing = missing_parts({k: v.ndim for k, v in tensors_of(state).items()})
    if missing:
        yield Cause(
            "shard",
            f"a part of a model: {'; '.join(missing)}",
            "it is one shard of several: put the tensors of all of them into one dict, and save that",
            len(state),
            few(state),
        )


TELLERS: tuple[Callable[[State], Iterator[Cause]], ...] = (_quantised, _placeholders, _adapters, _shard)
