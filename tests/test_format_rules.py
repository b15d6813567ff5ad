"""Corners of the formats' rules that no drawn checkpoint has, each from the upstream code. No timm."""

from __future__ import annotations

import pytest
import torch

from tests.small_vit import GEOMETRY, image_encoder, model, refusal
from timm_conformance.cases.case import Geometry
from timm_conformance.reference import BILINEAR, FORMATS, Facts, LoadError, detect, load_state_dict
from timm_conformance.reference.embeddings import resample_position_grid
from timm_conformance.reference.formats import dinov3, hybrid, naflex_native, sam, timm_native
from timm_conformance.reference.formats.rules import Drop, Fill, Format, Rename, concatenated, strip
from timm_conformance.reference.stems import features

KERNEL = "patch_embed.proj.weight"


@pytest.mark.parametrize(("rows", "left"), [(2, None), (3, 1), (6, 4)])
def test_the_first_two_rows_of_beit3s_positions_are_nobodys(rows: int, left: int | None) -> None:
    """microsoft/torchscale component/embedding.py: PositionalEmbedding counts from 2."""
    name, table = "beit3.encoder.embed_positions.A.weight", torch.arange(8.0 * rows).reshape(rows, 8)
    if left is None:
        with pytest.raises(
            LoadError, match=r"cannot have tensors of these shapes and dtypes: beit3\S+ \(2, 8\) float32"
        ):
            FORMATS["beit3"].decode({name: table})
    else:
        assert FORMATS["beit3"].decode({name: table})["pos_embed"].tolist() == [table.tolist()[2:]]
        assert len(FORMATS["beit3"].decode({name: table})["pos_embed"][0]) == left


def _pairs(h: int, w: int) -> torch.Tensor:
    """The row of a table for each pair of tokens of a window, as upstream computes it."""
    coords = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
    away = coords[:, :, None] - coords[:, None, :] + torch.tensor([h - 1, w - 1])[:, None, None]
    return away[0] * (2 * w - 1) + away[1]


@pytest.mark.parametrize("window", [(2, 2), (3, 3), (2, 3), (2, 5), (3, 5)], ids=str)
def test_beits_buffer_is_the_one_its_tables_are_read_by(window: tuple[int, int]) -> None:
    """microsoft/unilm beit/modeling_finetune.py: RelativePositionBias; of two windows of as many rows the wider."""
    h, w = window
    rows = (2 * h - 1) * (2 * w - 1)
    index = torch.zeros(h * w + 1, h * w + 1, dtype=torch.int64)
    index[1:, 1:] = _pairs(h, w)
    index[0, 0:], index[0:, 0], index[0, 0] = rows, rows + 1, rows + 2
    table, buffer = "relative_position_bias_table", "relative_position_index"
    for owner, block in (("rel_pos_bias.", ""), ("blocks.0.attn.", "blocks.0.norm1.weight")):
        state = {owner + table: torch.zeros(rows + 3, 2)} | ({block: torch.zeros(8)} if block else {})
        encoded = FORMATS["beit"].encode(state)
        assert torch.equal(encoded.pop(owner + buffer), index)
        assert encoded.keys() == state.keys()


def test_every_block_of_beit_has_the_buffer() -> None:
    table = "attn.relative_position_bias_table"
    state = {f"blocks.{i}.{table}": torch.zeros(9 + 3, 2) for i in range(11)}
    encoded = FORMATS["beit"].encode(state)
    buffers = {f"blocks.{i}.attn.relative_position_index" for i in range(11)}
    assert encoded.keys() == state.keys() | buffers
    assert len({encoded[name].data_ptr() for name in buffers}) == 11, "safetensors writes no memory twice"


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("side", [2, 3])
def test_swins_buffer_is_the_one_its_tables_are_read_by(stage: int, side: int) -> None:
    """microsoft/Swin-Transformer models/swin_transformer.py: WindowAttention, of square windows; a buffer in every block."""
    blocks = [f"layers.{stage}.blocks.{i}.attn.relative_position_" for i in (0, 1)]
    state = {f"{block}bias_table": torch.zeros((2 * side - 1) ** 2, 2) for block in blocks}
    encoded = FORMATS["swin"].encode(state)
    assert encoded.keys() == state.keys() | {f"{block}index" for block in blocks}
    assert all(torch.equal(encoded[f"{block}index"], _pairs(side, side)) for block in blocks)
    assert len(FORMATS["swin"].encode({k: v[1:] for k, v in state.items()})) == 2, "of no square window"


def test_swins_second_version_has_buffers_of_a_window_of_eight() -> None:
    """microsoft/Swin-Transformer models/swin_transformer_v2.py: WindowAttention, on a logarithmic scale."""
    block = "layers.0.blocks.0.attn."
    encoded = FORMATS["swin_v2"].encode({f"{block}cpb_mlp.0.weight": torch.zeros(4, 2)})
    assert torch.equal(encoded[f"{block}relative_position_index"], _pairs(8, 8))
    away = torch.arange(-7.0, 8.0) / 7 * 8
    scaled = away.sign() * torch.log2(away.abs() + 1) / 3
    want = torch.stack(torch.meshgrid(scaled, scaled, indexing="ij"), dim=-1)[None]
    torch.testing.assert_close(encoded[f"{block}relative_coords_table"], want, rtol=0, atol=1e-6)
    assert FORMATS["swin_v2"].encode({"norm.bias": torch.zeros(4)}).keys() == {"norm.bias"}


@pytest.mark.parametrize("width", [4, 9])
def test_a_class_token_of_another_width_than_its_position_is_refused(width: int) -> None:
    """facebookresearch/dinov2: the two are added; one channel would broadcast."""
    options = {"num_classes": 0, "reg_tokens": 2, "no_embed_class": True, "layer_scale": True}
    state, _ = image_encoder(GEOMETRY, "dinov2_registers", **options)
    text = refusal(state | {"cls_token": torch.zeros(1, 1, width)}, model(GEOMETRY, "dinov2_registers", **options))
    assert text.startswith(
        "the dinov2_registers format cannot have tensors of these shapes and dtypes: cls_token (1, 1, "
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dinov3s_periods_are_powers_of_a_hundred(dtype: torch.dtype) -> None:
    """facebookresearch/dinov3 layers/rope_position_encoding.py: RopePositionEmbedding, for heads of 16 channels."""
    registers = torch.zeros(1, 2, 32, dtype=dtype)
    periods = FORMATS["dinov3"].encode({"cls_token": registers[:, :1], "reg_token": registers}, Facts(num_heads=2))
    want = torch.tensor([100.0 ** (2 * n / 8) for n in range(4)], dtype=torch.float64).to(dtype)
    assert periods["rope_embed.periods"].dtype == dtype
    assert torch.equal(periods["rope_embed.periods"], want)


def test_biases_without_a_mask_are_read_as_they_are_written() -> None:
    query, value = torch.arange(3.0), torch.arange(3.0) + 5
    (whole,) = dinov3._unmasked(query, value, Facts())
    assert whole.tolist() == [0, 1, 2, 0, 0, 0, 5, 6, 7]
    assert [t.tolist() for t in dinov3._of_unmasked(whole, Facts())] == [query.tolist(), value.tolist()]


def _named(*names: str) -> dict[str, torch.Tensor]:
    """Tensors of nothing, but for a kernel."""
    return {KERNEL: torch.zeros(8, 3, 2, 2)} | {name: torch.zeros(1) for name in names}


_MLP, _QKV, _SCALE, _BIAS = (
    "blocks.0.mlp.fc1.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.gamma_1",
    "blocks.0.attn.q_bias",
)


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ([_SCALE, _QKV, _MLP], "eva"),
        ([_SCALE, _QKV, _MLP, "pos_embed"], "deit3"),
        ([_SCALE, _QKV, "blocks.0.mlp.w12.weight", "pos_embed"], "deit3"),
        ([_SCALE, _QKV, _MLP, "pos_embed", "rope.freqs"], "eva"),
        ([_SCALE, _QKV, _MLP, "pos_embed", "rope.freqs", _BIAS, "cls_token"], "beit"),
        ([_SCALE, _QKV, _MLP, "pos_embed", _BIAS, "cls_token"], "beit"),
        ([_QKV, _MLP, "pos_embed", _BIAS, "cls_token"], "eva"),
        ([_QKV, _MLP, "pos_embed", "blocks.0.attn.q_proj.weight"], "eva"),
        ([_QKV, _MLP, "rope.freqs"], "eva"),
        ([_QKV, _MLP, "pos_embed"], "timm_native"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_names_of_eva_are_told_from_those_of_beit_and_deit3(names: list[str], name: str) -> None:
    """Where they are the same, it is what upstream's models have: see :func:`reference.formats.eva.is_eva`."""
    assert detect(_named(*names)).name == name


@pytest.mark.parametrize("shape", [(4, 8, 3), (1, 4, 4, 3, 8)], ids=str)
@pytest.mark.parametrize("positions", ["pos_embedding", "Transformer/posembed_input/pos_embedding"])
def test_a_flax_kernel_is_a_convolution(shape: tuple[int, ...], positions: str) -> None:
    """google-research/vision_transformer and big_vision; a dense one is big_vision's NaFlex, whose positions are beside it."""
    with pytest.raises(LoadError, match="unknown checkpoint format"):
        detect({"embedding/kernel": torch.zeros(shape), positions: torch.zeros(1, 4, 8)})


def test_a_dense_flax_kernel_has_its_positions_beside_it() -> None:
    dense = {"embedding/kernel": torch.zeros(48, 8)}
    assert detect(dense | {"pos_embedding": torch.zeros(2, 2, 8)}).name == "big_vision"
    with pytest.raises(LoadError, match="unknown checkpoint format"):
        detect(dense | {"Transformer/posembed_input/pos_embedding": torch.zeros(1, 4, 8)})


def test_a_grid_of_positions_stays_one_in_big_vision() -> None:
    """google-research/big_vision models/proj/image_text/naflex_vit.py: positions (h, w, dim)."""
    grid, head = torch.arange(48.0).reshape(1, 2, 3, 8), {"head.weight": torch.zeros(3, 8)}
    for positions, stored in ((grid, grid[0]), (grid.flatten(1, 2), grid.flatten(1, 2))):
        assert torch.equal(FORMATS["big_vision"].encode(head | {"pos_embed": positions})["pos_embedding"], stored)


@pytest.mark.parametrize(
    ("name", "layer"), [("google_npz", "pre_logits/{}"), ("legacy_linear", "pre_logits.fc.{}")], ids=["npz", "linear"]
)
def test_a_representation_layer_stands_where_no_head_reads_it(name: str, layer: str) -> None:
    """It is one that changes nothing but by its tanh: an identity without a bias."""
    norm = {"norm.weight": torch.ones(4), "norm.bias": torch.ones(4)}
    encoded = FORMATS[name].encode(norm)
    kernel = "kernel" if name == "google_npz" else "weight"
    assert torch.equal(encoded[layer.format(kernel)], torch.eye(4))
    assert torch.equal(encoded[layer.format("bias")], torch.zeros(4))
    assert FORMATS[name].decode(encoded).keys() == norm.keys()
    headed = FORMATS[name].encode(norm | {"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)})
    assert len(headed) == 4


@pytest.mark.parametrize(
    ("family", "grid", "models", "options"),
    [("google_npz", (2, 2), (1, 5), {"fc_norm": False}), ("big_vision", (2, 2), (1, 3), {"no_embed_class": True})],
    ids=["with", "without"],
)
def test_flax_says_whether_positions_have_a_row_for_the_class_token(
    family: str, grid: tuple[int, int], models: tuple[int, int], options: dict
) -> None:
    """Where their number could be either's: 5 rows are a model's 1x5, or a class token's and 2x2; so are 4 and 1x3."""
    state, _ = image_encoder(Geometry((4, 4), grid), family, **options)
    into = model(Geometry((4, 4), models), "naflex_vit", embed_class=False, projection="linear", **options)
    loaded = load_state_dict(state, into)
    own = FORMATS[family].decode(state)["pos_embed"][:, -4:]
    rows = resample_position_grid(own, grid, models, 0, BILINEAR)
    torch.testing.assert_close(loaded["embeds.pos_embed"].flatten(1, 2), rows)


@pytest.mark.parametrize("name", ["block5/unit1/conv1/kernel", "block1/unit10/gn1/scale", "MAPHead_0/probe"])
def test_a_google_npz_has_four_stages_of_nine_units_and_no_map_head(name: str) -> None:
    """google-research/vision_transformer vit_jax/configs/models.py: R50 has 3, 4 and 9; the heads are big_vision's."""
    with pytest.raises(LoadError, match=rf"the google_npz_resnet format has no tensor named {name}$"):
        FORMATS["google_npz_resnet"].decode({name: torch.zeros(1, 1, 1, 1)})


def test_units_of_a_hybrids_stages_are_counted_by_stage() -> None:
    names = [
        f"stages.{stage}.blocks.{unit}.conv1.weight"
        for stage, units in enumerate((2, 1, 3, 1))
        for unit in range(units)
    ]
    assert hybrid._units({name: torch.zeros(1) for name in reversed(names)}) == [2, 1, 3, 1]


@pytest.mark.parametrize(
    ("columns", "facts", "patch"),
    [
        (24, Facts(in_chans=1, patch_size=(4, 6)), (4, 6, 1)),
        (72, Facts(in_chans=1, patch_size=(4, 6)), (4, 6, 3)),
        (36, Facts(in_chans=1, patch_size=(4, 6)), (6, 6, 1)),
        (12, Facts(in_chans=12), (1, 1, 12)),
        (27, Facts(in_chans=1), (3, 3, 3)),
    ],
    ids=str,
)
def test_the_patch_of_a_naflex_kernel_is_the_models_else_a_square(
    columns: int, facts: Facts, patch: tuple[int, int, int]
) -> None:
    """Of the model's channels, else of three; twelve columns could be two by two pixels of three."""
    assert naflex_native._patch(columns, facts) == patch


def test_a_naflex_kernel_that_is_no_patch_is_refused() -> None:
    with pytest.raises(LoadError, match="has 7 columns: its patch size cannot be told"):
        naflex_native.to_conv(torch.zeros(2, 7), Facts(patch_size=(4, 4)))


@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
def test_channels_of_a_naflex_kernel_come_last_or_first(last: bool) -> None:
    facts = Facts(patch_size=(2, 5), channels_last=last)
    kernel = torch.arange(60.0).reshape(2, 3, 2, 5)
    linear = naflex_native.to_linear(kernel, facts)
    assert linear.shape == (2, 30)
    assert linear[0, :3].tolist() == ([0, 10, 20] if last else [0, 1, 2])
    assert torch.equal(naflex_native.to_conv(linear, facts), kernel)


@pytest.mark.parametrize(("rows", "fits"), [(6, True), (7, False), (8, False)])
def test_a_packed_projection_is_three_of_one_width(rows: int, fits: bool) -> None:
    """facebookresearch/perception_models core/vision_encoder/pe.py: AttentionPooling's in_proj."""
    packed = {"attn_pool.attn.in_proj_weight": torch.arange(2.0 * rows).reshape(rows, 2)}
    if fits:
        decoded = FORMATS["perception_encoder_bare"].decode(packed)
        assert [decoded[f"attn_pool.{n}.weight"].tolist() for n in ("q", "kv")] == [
            packed["attn_pool.attn.in_proj_weight"].tolist()[:2],
            packed["attn_pool.attn.in_proj_weight"].tolist()[2:],
        ]
    else:
        with pytest.raises(LoadError, match=rf"cannot have tensors of these shapes and dtypes: \S+ \({rows}, 2\)"):
            FORMATS["perception_encoder_bare"].decode(packed)


def test_radios_patches_are_square_whatever_the_models_are() -> None:
    """NVlabs/RADIO radio/vit_patch_generator.py: one number is the patch size."""
    name = "radio_model.model.patch_generator.embedder.weight"
    kernel = torch.arange(96.0).reshape(2, 48)
    decoded = FORMATS["radio"].decode({name: kernel}, Facts(patch_size=(2, 8)))["patch_embed.proj.weight"]
    assert torch.equal(decoded, kernel.reshape(2, 3, 4, 4))


def test_what_a_format_has_no_word_for_is_left_out() -> None:
    """openai/CLIP clip/model.py: the projection has no bias; where a format has one after all, that is written."""
    head = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2)}
    encoded = FORMATS["openai_clip"].encode(head)
    assert encoded.keys() == {"visual.proj"}
    decoded = FORMATS["openai_clip"].decode(encoded)
    assert torch.equal(decoded["head.weight"], head["head.weight"])
    assert torch.equal(decoded["head.bias"], torch.zeros(2))
    assert FORMATS["openclip_trunk"].encode(head).keys() == {"visual.head.proj.weight", "visual.head.proj.bias"}


def test_a_prefix_is_put_in_front_of_every_rule() -> None:
    """Of one that drops a tensor, makes one, renames, or folds two into one."""
    plain = Format(
        name="plain",
        namespace="model.",
        rules=(
            Drop("model.gone"),
            Drop("model.made.{i}", lambda out: out["model.c.0"] + 1),
            concatenated(("model.a", "model.b"), "ab"),
            Fill("filled", like="ab"),
            Rename("model.{rest}", "{rest}"),
        ),
        evidence=lambda state: "model.a" in state,
        forward=lambda state, image, arch: state["model.a"] + image + arch["more"],
    )
    moved = plain.prefixed("module.", "moved")
    state = {"ab": torch.arange(4.0), "filled": torch.zeros(4), "c.0": torch.ones(1), "made.0.x": torch.ones(1)}
    state["made.other.x"] = torch.ones(1)
    want = plain.encode(state)
    assert want.keys() == {f"model.{name}" for name in ("a", "b", "c.0", "made.0", "made.0.x", "made.other.x")}
    got = moved.encode(state)
    assert {key.removeprefix("module."): value.tolist() for key, value in got.items()} == {
        key: value.tolist() for key, value in want.items()
    }
    assert all(key.startswith("module.") for key in got)
    foreign = {"model.a": torch.zeros(1), "other.gone": torch.zeros(1), "module.model.gone": torch.zeros(1)}
    assert moved.decode(got | foreign).keys() == state.keys()
    assert (moved.name, moved.namespace) == ("moved", "module.model.")
    assert moved.evidence(got)
    assert not moved.evidence(want)
    assert plain.evidence(want)
    image = torch.ones(2)
    assert torch.equal(moved.forward(got, image, {"more": 2}), plain.forward(want, image, {"more": 2}))


def test_what_does_not_begin_with_a_prefix_is_not_within() -> None:
    tensor = torch.zeros(1)
    assert strip({"a.b": tensor, "a.": tensor, "b.a.c": tensor, "ab": tensor}, "a.").keys() == {"b", ""}


@pytest.mark.parametrize("count", [0, 2])
def test_positions_of_two_checkpoints_are_none(count: int) -> None:
    """apple/ml-mobileclip: a parameter (1, 1, n, dim)."""
    name = "image_encoder.model.pos_embed.pos_embed.pos_embed"
    assert FORMATS["mobileclip"].decode({name: torch.zeros(1, 1, 4, 8)})["pos_embed"].shape == (1, 4, 8)
    with pytest.raises(LoadError, match="cannot have tensors of these shapes and dtypes"):
        FORMATS["mobileclip"].decode({name: torch.zeros(count, 1, 4, 8)})


def test_windows_of_sam_are_cut_out_and_put_together_again() -> None:
    """facebookresearch/segment-anything modeling/image_encoder.py: window_partition pads with zeros below and to the right."""
    image = torch.arange(1.0, 41.0).reshape(2, 4, 5, 1)
    windows = sam._windows(image, 3)
    assert windows.shape == (2, 2, 2, 3, 3, 1)
    assert windows[0, 0, 1, ..., 0].tolist() == [[4, 5, 0], [9, 10, 0], [14, 15, 0]]
    assert windows[0, 1, 0, ..., 0].tolist() == [[16, 17, 18], [0, 0, 0], [0, 0, 0]]
    assert torch.equal(sam._rejoined(windows, 4, 5), image)


def test_a_swin_merges_its_tokens() -> None:
    """In the first stage, or at the second's beginning: without, nothing says which it is."""
    names = ("layers.0.blocks.0.attn.relative_position_bias_table", "norm.weight")
    for merging, found in (
        ("layers.0.downsample.reduction.weight", "swin"),
        ("layers.1.downsample.reduction.weight", "swin_native"),
    ):
        assert detect(_named(*names, merging)).name == found
    with pytest.raises(LoadError, match="unknown checkpoint format"):
        detect(_named(*names))


@pytest.mark.parametrize(
    ("columns", "facts"),
    [(50, Facts(patch_size=(4, 4))), (24, Facts()), (26, Facts())],
    ids=["three too many", "no square", "neither"],
)
def test_a_linear_kernel_that_is_no_patch_is_refused(columns: int, facts: Facts) -> None:
    with pytest.raises(LoadError, match=f"with {columns} columns is no square patch of 3 channels"):
        timm_native.to_conv(torch.zeros(2, columns), facts)


def test_relative_positions_without_a_patch_kernel_are_no_model() -> None:
    names = ("shared_rel_pos.mlp.fc1.weight", "blocks.0.attn.rel_pos.mlp.fc1.weight")
    for name in names:
        assert detect(_named(name)).name == "relpos"
        with pytest.raises(LoadError, match="unknown checkpoint format"):
            detect({name: torch.zeros(1)})


def test_the_first_unit_of_a_later_stage_halves_the_grid_and_the_others_keep_it() -> None:
    """google-research/vision_transformer vit_jax/models_resnet.py: ResNetStage; stem and pooling have halved it before."""
    channels, generator = 32, torch.Generator().manual_seed(0)

    def kernel(name: str) -> torch.Tensor | None:
        if name.endswith("conv_proj") and "unit1/" not in name:
            return None
        side = {"conv_root": 7, "conv2": 3}.get(name.rsplit("/", 1)[-1], 1)
        inputs = 3 if name == "conv_root" else channels
        return torch.randn(channels, inputs, side, side, generator=generator)

    def affine(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(channels), torch.zeros(channels)

    image = torch.randn(1, 3, 64, 32, generator=generator)
    for units, size in (((), (16, 8)), ((2,), (16, 8)), ((1, 2), (8, 4)), ((1, 2, 3), (4, 2))):
        assert features(image, kernel, affine, units).shape == (1, channels, *size)
