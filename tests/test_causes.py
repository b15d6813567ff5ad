"""What is said of a file that no loader can use: single causes, unread layouts, the nearest formats, the keys that tell."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from timm_conformance.cases.fixtures import FIXTURES
from timm_conformance.check import advice
from timm_conformance.check.explaining.causes import single_causes
from timm_conformance.check.explaining.keys import collapsed
from timm_conformance.check.explaining.layouts import LAYOUTS, recognise_layout, shown_keys
from timm_conformance.check.explaining.nearest import nearest_formats, telling_keys
from timm_conformance.check.explaining.shards import missing_parts
from timm_conformance.families import READ

DIM, DEPTH = 8, 4
VECTORS = sorted((FIXTURES / "vectors").glob("*/checkpoint.safetensors"))


def vit(rows: int = 17) -> dict[str, Tensor]:
    """A ViT in timm's names: four blocks of width 8, a 4x4 grid and a class token."""
    state = {"cls_token": torch.ones(1, 1, DIM), "pos_embed": torch.ones(1, rows, DIM)}
    state |= {"patch_embed.proj.weight": torch.ones(DIM, 3, 4, 4), "patch_embed.proj.bias": torch.ones(DIM)}
    for i in range(DEPTH):
        for norm in ("norm1", "norm2"):
            state |= {f"blocks.{i}.{norm}.{p}": torch.ones(DIM) for p in ("weight", "bias")}
        for name, out, into in (("attn.qkv", 24, 8), ("attn.proj", 8, 8), ("mlp.fc1", 16, 8), ("mlp.fc2", 8, 16)):
            state |= {f"blocks.{i}.{name}.weight": torch.ones(out, into), f"blocks.{i}.{name}.bias": torch.ones(out)}
    return state | {"norm.weight": torch.ones(DIM), "norm.bias": torch.ones(DIM)}


def quantised(dtype: torch.dtype, **beside: Tensor) -> dict[str, Tensor]:
    """A ViT whose query, key and value weights are of a dtype, with tensors beside each of them."""
    state = vit()
    for i in range(DEPTH):
        name = f"blocks.{i}.attn.qkv.weight"
        state[name] = state[name].to(dtype)
        state |= {f"blocks.{i}.attn.qkv.{k}": v for k, v in beside.items()}
    return state


def renamed(old: str, new: str, **more: Tensor) -> dict[str, Tensor]:
    state = vit() | {f"blocks.{i}.{k}": v for i in range(DEPTH) for k, v in more.items()}
    return {k.replace(old, new): v for k, v in state.items()}


def packed_by_torch() -> dict[str, object]:
    """The entries that torch's dynamic quantisation makes of a linear layer; not all are tensors."""
    packed = {"_packed_params.dtype": torch.qint8, "_packed_params._packed_params": (torch.ones(4, 4), None)}
    return {f"0.{k}": v for k, v in {"scale": torch.tensor(1.0), "zero_point": torch.tensor(0), **packed}.items()}


def lora(alone: bool) -> dict[str, Tensor]:
    """PEFT's names: an adapter file, or the whole model with adapters beside its weights."""
    before, default = "base_model.model.", "" if alone else "default."
    state = {
        f"{before}blocks.{i}.attn.qkv.lora_{x}.{default}weight": torch.ones(2, 2) for i in range(DEPTH) for x in "AB"
    }
    base = {before + k.replace("attn.qkv.", "attn.qkv.base_layer."): v for k, v in vit().items()}
    return state if alone else state | base


SHARED = {"rel_pos_bias.relative_position_bias_table": torch.ones(52, 2), "mask_token": torch.ones(1, 1, DIM)}
SCALE = torch.ones(24)
TOKEN = {"pretext_token": torch.ones(1, 1, DIM)}


def but(*parts: str) -> dict[str, Tensor]:
    """A ViT without the tensors whose names have one of these parts."""
    return {k: v for k, v in vit().items() if not any(part in k for part in parts)}


# Each with its kind, the number of tensors that it touches, and a word of what it says.
CAUSES = {
    "bitsandbytes": (quantised(torch.int8, SCB=SCALE), "quantised", 2 * DEPTH, "int8, with scales beside them"),
    "nf4": (
        quantised(torch.uint8, **{"weight.absmax": SCALE, "weight.quant_map": SCALE}),
        "quantised",
        3 * DEPTH,
        "bitsandbytes (4 bits)",
    ),
    "fp8": (quantised(torch.float8_e4m3fn, weight_scale=SCALE), "quantised", 2 * DEPTH, "float8_e4m3fn"),
    "quanto": (
        renamed("qkv.weight", "qkv.weight._data") | {"blocks.0.attn.qkv.weight._scale": SCALE},
        "quantised",
        DEPTH + 1,
        "optimum-quanto",
    ),
    "gptq": (renamed("qkv.weight", "qkv.qweight", **{"attn.qkv.g_idx": SCALE}), "quantised", 2 * DEPTH, "GPTQ"),
    "dynamic": (packed_by_torch(), "quantised", 3, "torch.ao.quantization"),
    "integers": (quantised(torch.int8), "quantised", DEPTH, "int8"),
    "zero3": ({k: torch.empty(0) for k in vit()}, "placeholders", 4 + 12 * DEPTH + 2, "DeepSpeed ZeRO-3"),
    "fsdp": ({"_flat_param": torch.ones(9), "blocks.0._flat_param": torch.ones(9)}, "flat-parameters", 2, "FSDP"),
    "adapter file": (lora(True), "adapters", 2 * DEPTH, "alone"),
    "adapters beside": (lora(False), "adapters", 4 * DEPTH, "not merged"),
    "dora": (lora(True) | {"blocks.0.attn.qkv.lora_magnitude_vector": SCALE}, "adapters", 2 * DEPTH + 1, "DoRA"),
    "sam adapters": ({f"w_{x}_{i:03}": torch.ones(2, 2) for x in "ab" for i in range(8)}, "adapters", 16, "alone"),
    "video": (vit() | {"patch_embed.proj.weight": torch.ones(DIM, 3, 2, 4, 4)}, "video-kernel", 1, "2 frames"),
    "layer scale": (renamed("", "", **{"ls1.weight": SCALE, "ls2.weight": SCALE}), "renamed", 2 * DEPTH, "ls*.gamma"),
    "bare layer scale": (renamed("", "", ls1=SCALE, ls2=SCALE), "renamed", 2 * DEPTH, "ls*.gamma"),
    "old norms": (renamed("norm1.weight", "norm1.gamma"), "renamed", DEPTH, ".weight and .bias"),
    "keras": (renamed("fc1.weight", "fc1.kernel"), "renamed", DEPTH, "timm calls .weight"),
    "one token more": (
        vit(18) | {"pretext_token": torch.ones(1, 1, DIM)},
        "more-tokens",
        1,
        "18 rows of positions are 4x4 + 1 + 1",
    ),
    "shared table": (vit() | SHARED | {"lm_head.weight": torch.ones(9, DIM)}, "shared-table", 3, "one table"),
    "decoder": (vit() | {"decoder_blocks.0.norm1.weight": SCALE, "mask_token": SCALE}, "decoder", 2, "its decoder"),
    "visual tokens": (vit() | {"lm_head.weight": torch.ones(9, DIM)}, "head-of-pre-training", 1, "lm_head"),
    "heads": (vit() | {"dino_head.mlp.0.weight": torch.ones(9, DIM)}, "self-distillation", 1, "DINO"),
    "later shard": (but("blocks.0", "blocks.1", "embed", "token"), "shard", 26, "blocks 2 to 3, none before"),
    "first shard": (but("blocks.3.mlp"), "shard", 50, "block 3 has 8 of 12 tensors"),
    "transposed": (
        {k: v.t() if v.ndim == 2 else v for k, v in vit().items()},
        "transposed",
        3 * DEPTH,
        "the weights of 12 linear layers are transposed, in x out",
    ),
    "compiled blocks": (
        renamed("mlp.", "mlp._orig_mod."),
        "wrapped-names",
        4 * DEPTH,
        "inside the names of 16 tensors",
    ),
    "gap": (but("blocks.1"), "shard", 42, "blocks 1 of 4 are not in it"),
    "no beginning": (but("embed", "token"), "shard", 50, "no patch embedding"),
}
GOES_ON = {"more-tokens", "shared-table", "decoder", "head-of-pre-training", "self-distillation", "wrapped-names"}


# -- causes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("name", CAUSES)
def test_one_cause_is_one_line(name, prefix):
    """Whatever number of tensors it touches, and whatever stands before their names."""
    state, kind, tensors, said = CAUSES[name]
    (cause,) = single_causes({prefix + k: v for k, v in state.items()})
    assert (cause.kind, cause.tensors, cause.stops) == (kind, tensors, kind not in GOES_ON)
    assert said in cause.text
    assert cause.keys
    assert cause.to_do
    for line in (cause.text, cause.to_do):
        assert "\n" not in line
        assert len(line) < 400


def test_what_stops_a_loader_comes_first():
    found = single_causes(vit() | SHARED | lora(True))
    assert [cause.kind for cause in found] == ["adapters", "shared-table"]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.parent.name)
def test_a_checkpoint_of_a_known_format_has_no_cause_that_stops(path):
    """Nor a layout that nobody reads, and no part of it is missing."""
    state = load_file(path)
    assert not [cause for cause in single_causes(state) if cause.stops]
    assert recognise_layout(state) is None


@pytest.mark.parametrize("state", [{}, {"a": 1, "b": None}, {"pos_embed": torch.ones(1, 2, 3)}, vit(), vit(20)])
def test_a_plain_state_dict_has_no_cause(state):
    assert single_causes(state) == []


def test_names_and_entries_of_any_kind_end_in_no_error():
    """Names that are no text, long or unprintable; entries that are no dense tensors."""
    hostile = {3: torch.ones(2), "a" * 10**5: torch.ones(2, 2), "blocks.0.ls1.weight\n": torch.ones(2), "x": [1]}
    hostile |= {"nested": torch.nested.nested_tensor([torch.ones(2)]), "sparse": torch.eye(2).to_sparse()}
    hostile |= {f"blocks.{'9' * 400}.{n}": torch.ones(2) for n in "abcdefg"}
    hostile |= {"lora_A.\x1b[2J": torch.ones(2, 2)}
    (cause,) = single_causes(hostile)
    assert cause.text.isprintable()
    names = [k for k in hostile if isinstance(k, str)]
    assert all(
        line.isprintable() for line in (advice.unknown_layout_lines(names)[0], *advice.unknown_layout_lines(names)[1])
    )


def test_lines_of_causes_are_what_the_file_has_and_what_to_do():
    what, to_do = advice.cause_lines(single_causes(CAUSES["zero3"][0]))
    assert what == [
        "54 of 54 tensors are empty placeholders of shape (0,), as DeepSpeed ZeRO-3 saves them: the values are in other files"
    ]
    assert "zero_to_fp32.py" in to_do[0]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([f"blocks.{i}.{n}" for i in range(3) for n in "abcdef"] + ["patch_embed.proj.weight"], 0),
        ([f"blocks.{chunk}.{i}.{n}" for chunk, i in ((0, 0), (0, 1), (1, 2)) for n in "abcdef"] + ["patch"], 0),
        ([f"h.{i}.{n}" for i in range(3) for n in "abcdef"] + ["wte.weight"], 0),
        ([f"layers.{i}.{n}" for i in (5, 6) for n in "abcdef"], 2),
        (["head.2.weight", "head.3.weight"], 0),
    ],
)
def test_a_part_of_a_model_is_told_by_its_blocks(names, missing):
    assert len(missing_parts(dict.fromkeys(names, 2))) == missing


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.name} {layout.keys[0]}")
@pytest.mark.parametrize("prefix", ["", "model.backbone."])
def test_a_layout_is_told_by_its_own_keys(layout, prefix):
    """In any block and behind any prefix, and no other layout has them all."""
    names = [prefix + k.replace(".*.", ".3.").replace("_*.", "_3.").replace("*", "x") for k in layout.keys]
    names = [n.replace(".*.", ".3.") for n in names]
    found = recognise_layout([*names, "head.weight"])
    assert found is not None
    assert found.name == layout.name or found.part
    assert len(shown_keys(layout, names)) == len(layout.keys)
    assert recognise_layout(vit()) is None


def test_a_layout_that_nobody_reads_is_named_by_the_keys_that_tell():
    """One kernel for each group of channels, as in SatMAE."""
    state = {k: v for k, v in vit().items() if "proj" not in k or "blocks" in k}
    names = [*state, "channel_embed", "patch_embed.0.proj.weight", "patch_embed.1.proj.weight"]
    told, to_do = advice.unknown_layout_lines(names)
    assert told == (
        "this is the layout of SatMAE with groups of channels (sustainlab-group/SatMAE), by channel_embed, "
        "patch_embed.*.proj.weight; no timm release reads it"
    )
    assert len(to_do) == 1


# -- unknown names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.parent.name)
def test_the_nearest_format_of_a_known_checkpoint_is_its_own(path):
    names = list(load_file(path))
    found = {near.format: near for near in nearest_formats(names, limit=40)}
    own = found[READ[path.parent.name].format]
    assert own.share == max(near.share for near in found.values())
    assert (own.missing, own.foreign, own.prefix, own.blocks) == ((), (), "", None)


def test_what_is_missing_and_foreign_is_said_of_the_nearest_format():
    names = [k for k in vit() if "patch_embed" not in k] + ["stem.weight"]
    near = nearest_formats(names)[0]
    assert near.format == "timm_native"
    assert near.missing == ("patch_embed.proj.bias", "patch_embed.proj.weight")
    assert near.foreign == ("stem.weight",)


def test_names_behind_a_prefix_and_blocks_of_another_name_are_compared_as_well():
    near = nearest_formats(["tower." + k.replace("blocks.", "encoder.layers.") for k in vit()])[0]
    assert (near.format, near.prefix) == ("timm_native", "tower.")
    assert near.blocks == ("encoder.layers.", "blocks.")
    assert near.missing == near.foreign == ()
    assert nearest_formats(["a", "b.c"]) == []


def test_the_keys_that_tell_most_are_not_the_first():
    names = [*vit(), "zeta.scale_table", *(f"blocks.{i}.gate.weight" for i in range(DEPTH)), "blocks.0.gate.bias"]
    assert set(telling_keys(names)) == {"zeta.scale_table", "blocks.*.gate.weight"}
    assert telling_keys(["tower." + n for n in names])[0] == "tower.blocks.*.gate.weight"
    assert telling_keys([]) == ()
    assert len(telling_keys(vit())) == 4


def test_an_unknown_layout_is_told_by_keys_and_neighbours():
    told, lines = advice.unknown_layout_lines(["tower." + k for k in vit()] + ["decode_head.conv_seg.weight"])
    assert told == "unknown checkpoint format; the keys that tell most are decode_head.conv_seg.weight"
    assert lines[0].startswith("it holds a segmentor of OpenMMLab (decode_head.conv_seg.weight)")
    assert lines[1] == (
        "nearest known format: timm_native, 95% of the names agree; behind the prefix tower.; "
        "unknown there: decode_head.conv_seg.weight"
    )


def test_numbers_are_collapsed_where_they_stand_alone():
    assert collapsed("blocks.11.norm1.weight") == "blocks.*.norm1.weight"
    assert collapsed("encoder_layer_3.ln_1") == "encoder_layer_*.ln_*"
