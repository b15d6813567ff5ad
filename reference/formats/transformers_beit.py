"""Hugging Face transformers' BEiT: relative position biases instead of, or beside, absolute positions.

Source: ``huggingface/transformers`` ``src/transformers/models/beit/modeling_beit.py`` and
``src/transformers/conversion_mapping.py``. The names are those of :mod:`.transformers_vit`, with or without ``beit.`` before
them. Keys have no bias. The tables are those of ``microsoft/unilm``. Where a window is not square, transformers reads its table
with the sides exchanged; here it is read by the table's definition. Old files hold the row that each pair of tokens reads, which
follows from the window.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..forward import layer_norm
from ..relative import attention_bias
from .rules import Drop, Format, Rename, Rule, concatenated
from .transformers_vit import (
    EMBEDDINGS,
    MODULES,
    PROJECTION,
    SAVED,
    Names,
    State,
    block_rules,
    classify,
    embed,
    embedding_rules,
    encode,
    has_blocks,
    is_beit,
    root_of,
)

_EPS = 1e-12
_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"
# Where a block has its table, and the encoder the one that all blocks share: in a file, and in the state_dict() of 5.x.
_OWN = {SAVED: "attention.attention.relative_position_bias.", MODULES: "relative_position_bias."}
_SHARED = {SAVED: "encoder.relative_position_bias.", MODULES: "shared_position_bias."}


def _layer_rules(root: str, names: Names) -> tuple[Rule, ...]:
    at = root + names.block
    query, key, value = (at + part for part in names.qkv)
    return (
        concatenated(tuple(f"{part}.weight" for part in (query, key, value)), "blocks.{i}.attn.qkv.weight"),
        Rename(f"{query}.bias", "blocks.{i}.attn.q_bias"),
        Rename(f"{value}.bias", "blocks.{i}.attn.v_bias"),
        *block_rules(root, names),
        Rename(at + "lambda_{n}", "blocks.{i}.gamma_{n}"),
        Rename(at + _OWN[names] + _TABLE, f"blocks.{{i}}.attn.{_TABLE}"),
        Rename(root + _SHARED[names] + _TABLE, f"rel_pos_bias.{_TABLE}"),
        Drop(at + _OWN[names] + _INDEX),
        Drop(root + _SHARED[names] + _INDEX),
    )


def _rules(root: str) -> tuple[Rule, ...]:
    return (
        *embedding_rules(root),
        *_layer_rules(root, SAVED),
        *_layer_rules(root, MODULES),
        Rename(root + "pooler.layernorm.{p}", "fc_norm.{p}"),
        # Without a root also the final norm of BeitForMaskedImageModeling, which lies outside its encoder.
        Rename(root + "layernorm.{p}", "norm.{p}"),
    )


def _forward(state: State, image: Tensor, arch: Mapping) -> Tensor:
    """Logits ``(batch, num_classes)``, or pooled features where the checkpoint has no classifier."""
    root, eps = root_of(state, "beit.", "") or "", arch.get("eps", _EPS)
    kernel = state[f"{root}{EMBEDDINGS}{PROJECTION}weight"]
    window = (image.shape[-2] // kernel.shape[-2], image.shape[-1] // kernel.shape[-1])

    def bias(*places: str) -> Tensor | float:
        tables = [state[place + _TABLE] for place in places if place + _TABLE in state]
        return attention_bias(tables[0], window) if tables else 0.0

    shared = bias(*(root + place for place in _SHARED.values()))
    x = embed(state, image, root)
    x = encode(state, x, root, arch, lambda block: shared + bias(*(block + place for place in _OWN.values())))
    if f"{root}pooler.layernorm.weight" in state:
        x = layer_norm(x[:, 1:].mean(dim=1), state, f"{root}pooler.layernorm", eps)
    else:
        norm = f"{root}layernorm" if f"{root}layernorm.weight" in state else "layernorm"
        x = layer_norm(x[:, 0], state, norm, eps)
    return classify(x, state)


def _evidence(state: State) -> bool:
    root = root_of(state, "beit.", "")
    return root is not None and has_blocks(state, root) and is_beit(state, root)


TRANSFORMERS_BEIT = Format(
    name="transformers_beit",
    namespace="",
    rules=(*_rules("beit."), *_rules(""), Rename("classifier.{p}", "head.{p}"), Drop("lm_head.{p}")),
    evidence=_evidence,
    forward=_forward,
    prefix_rows=True,
)
