"""BEiT and BEiT v2, fine-tuned."""

from __future__ import annotations

from functools import partial
from math import isqrt
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case, Geometry
from . import asks, vit
from .base import Arch, Family, Shapes, State, Windows

_TABLE = "relative_position_bias_table"


@st.composite
def _architectures(draw: st.DrawFn) -> dict[str, Any]:
    """Options in which positions are in tables ("block" or "shared"), in ``pos_embed``, or in both."""
    tables = draw(st.sampled_from(["block", "block", "shared", "shared", "none"]), label="tables")
    positions = st.just(True) if tables == "none" else st.sampled_from([False, False, True])
    options = vit.architectures(
        global_pool=st.sampled_from(["avg", "token"]),
        tables=st.just(tables),
        pos_embed=positions.map(lambda absolute: "learn" if absolute else "none"),
        # Without tables and layer scale, the names are the same as those of an EVA.
        layer_scale=st.just(True) if tables == "none" else st.booleans(),
    )
    return draw(options)


def _tables(arch: Arch, geometry: Geometry) -> Windows:
    names = {
        "block": [f"blocks.{i}.attn.{_TABLE}" for i in range(arch["depth"])],
        "shared": [f"rel_pos_bias.{_TABLE}"],
        "none": [],
    }
    return dict.fromkeys(names[arch["tables"]], geometry.grid_size)


def _shapes(arch: Arch, geometry: Geometry) -> Shapes:
    out: Shapes = {}
    for name, shape in vit.shapes(arch, geometry).items():
        if name.endswith("attn.qkv.bias"):
            out |= {name.replace("qkv.bias", bias): (arch["embed_dim"],) for bias in ("q_bias", "v_bias")}
        else:
            out[name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = shape
    h, w = geometry.grid_size
    return out | dict.fromkeys(_tables(arch, geometry), ((2 * h - 1) * (2 * w - 1) + 3, arch["num_heads"]))


def _written(case: Case, state: State) -> State:
    """The checkpoint with the index of its own grid's tables. Their rows do not tell a grid from its transpose."""
    import torch

    from ..reference.relative import attention_bias

    found = dict(state)
    for name in (k for k in state if k.endswith("relative_position_index")):
        rows = len(state[name.replace("index", "bias_table")])
        found[name] = attention_bias(torch.arange(rows)[:, None], case.source.grid_size)[0]
    return found


def _model_kwargs(arch: Arch) -> dict[str, Any]:
    from torch import nn

    return {
        "embed_dim": arch["embed_dim"],
        "depth": arch["depth"],
        "num_heads": arch["num_heads"],
        "mlp_ratio": arch["mlp_ratio"],
        "num_classes": arch["num_classes"],
        "qkv_bias": arch.get("qkv_bias", True),
        "global_pool": arch["global_pool"],
        "init_values": 0.1 if arch["layer_scale"] else 0.0,
        "use_abs_pos_emb": arch["pos_embed"] == "learn",
        "use_rel_pos_bias": arch["tables"] == "block",
        "use_shared_rel_pos_bias": arch["tables"] == "shared",
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    }


def _asks(arch: Arch) -> asks.Asks:
    """The other pool, whose norm BEiT puts after the mean; other tables; and what a Vision Transformer is asked for."""
    pool = {"global_pool": "token" if arch["global_pool"] == "avg" else "avg"}
    tables = tuple({"tables": other} for other in ("block", "shared", "none") if other != arch["tables"])
    return (
        pool,
        *tables,
        *asks.positions(arch),
        *asks.depths(arch),
        *asks.flags(arch, qkv_bias=True, layer_scale=False),
    )


def _tags(case: Case) -> frozenset[str]:
    absolute = {"absolute-positions"} if case.arch["pos_embed"] == "learn" else set()
    return frozenset({f"tables-{case.arch['tables']}"} | absolute)


def _needs(case: Case) -> tuple[str, str] | None:
    """The indices that the suite writes beside a table are a square's, where the table has as many rows as a square's."""
    h, w = case.source.grid_size
    rows = (2 * h - 1) * (2 * w - 1)
    if case.arch["tables"] != "none" and h != w and isqrt(rows) ** 2 == rows:
        return "0.9.6", "how to compute the indices of tables, and this file has those of a square"
    return None


BEIT = Family(
    needs=_needs,
    name="beit",
    source="microsoft/unilm beit/modeling_finetune.py",
    # beit.py had a filter in 0.9.0, with the comment that it resized no tables; 0.9.6 resizes them.
    known_since="0.9.0",
    complete_since="0.9.6",
    architectures=_architectures(),
    shapes=_shapes,
    written=_written,
    num_prefix_tokens=vit.num_prefix_tokens,
    model_kwargs=_model_kwargs,
    asks=_asks,
    models=("beit_*", "beitv2_*"),
    module="beit",
    model_class="Beit",
    # Old releases import vision_transformer's function under the second name.
    filters=("_beit_checkpoint_filter_fn", "checkpoint_filter_fn"),
    wrappers=("bare", "model", "module", "model.module"),
    wrapper_since={"model.module": "0.9.6"},
    square_grids="often",
    tables=_tables,
    tags=_tags,
    own_regimes=frozenset({"tables-block", "tables-shared", "tables-none", "absolute-positions"}),
    in_forward=(),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.6,
)

FAMILIES = (BEIT,)
