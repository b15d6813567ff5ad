"""Files of public bug reports, by kind: `check` says what is true of each. Real names and layouts, made-up values, few blocks.

Where a report's answer depends on the width, the file has the width of a registered model; elsewhere it is small, and so is the
model, by the options of ``create_model`` that the check takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.check_files import TINY as CHECKED
from tests.check_files import tensors
from timm_conformance.check.checker import check_checkpoint
from timm_conformance.check.protocol import Answer, Request
from timm_conformance.check.render import lines
from timm_conformance.errors import UserError

TINY = "vit_tiny_patch16_224"
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
DINOV2 = "vit_small_patch14_dinov2.lvd142m"
DINOV2_REGISTERS = "vit_small_patch14_reg4_dinov2.lvd142m"
BEIT = "beit_base_patch16_224.in22k_ft_in22k"
CLIP = "vit_base_patch32_clip_224.openai"
SAM = "samvit_base_patch16"
RADIO = "vit_base_patch16_radio_v3.c_radio"
EVA02 = "eva02_base_patch14_224.mim_in22k"

State = dict[str, Tensor]


def r(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.05


def linear(name: str, out: int, into: int) -> State:
    return {f"{name}.weight": r(out, into), f"{name}.bias": r(out)}


def norms(*names: str, dim: int) -> State:
    return {f"{name}.{p}": (p == "weight") + r(dim) for name in names for p in ("weight", "bias")}


def behind(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def blocks(
    dim: int, depth: int, names: tuple[str, str, str, str] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
) -> State:
    """Blocks; ``names`` are those of their four linear layers."""
    out: State = {}
    for i in range(depth):
        sizes = ((3 * dim, dim), (dim, dim), (4 * dim, dim), (dim, 4 * dim))
        for name, size in zip(names, sizes):
            out |= linear(f"blocks.{i}.{name}", *size)
        out |= norms(f"blocks.{i}.norm1", f"blocks.{i}.norm2", dim=dim)
    return out


def vit(dim: int = 48, depth: int = 2, patch: int = 16, chans: int = 3, rows: int = 197, classes: int = 0) -> State:
    """A ViT in the names of timm, DINO and MAE."""
    out = {
        "cls_token": r(1, 1, dim),
        "pos_embed": r(1, rows, dim),
        "patch_embed.proj.weight": r(dim, chans, patch, patch),
    }
    out |= {"patch_embed.proj.bias": r(dim)} | blocks(dim, depth) | norms("norm", dim=dim)
    return out | (linear("head", classes, dim) if classes else {})


def pooled(state: State) -> State:
    """As fine-tuning by mean pooling leaves it: the norm comes after the pool."""
    return {k.replace("norm.", "fc_norm.") if k.startswith("norm.") else k: v for k, v in state.items()}


def layer_scale(state: State, dim: int = 48, depth: int = 2) -> State:
    return state | {f"blocks.{i}.ls{n}.gamma": 0.1 + r(dim) for i in range(depth) for n in (1, 2)}


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[Answer, str]]:
    """Write a file of ``torch.save`` and check it on the newest release; the answer and its text."""

    def run(content: Any, model: str = TINY, name: str = "file.pth", **more: Any) -> tuple[Answer, str]:
        path = tmp_path / name
        (save_file if name.endswith(".safetensors") else torch.save)(content, path)
        answer = check_checkpoint(Request(str(path), model, **{"options": SMALL, **more}))
        return answer, "\n".join(f"{label} {line}" for label, line in lines(answer, Path(name)))

    return run


# -- files that load -----------------------------------------------------------------------------------------------------


def sam() -> State:
    """Segment Anything with its prompt encoder and mask decoder: two blocks, the second of them global."""
    out = blocks(48, 2, ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")) | {"pos_embed": r(1, 64, 64, 48)}
    out |= {"patch_embed.proj.weight": r(48, 3, 16, 16), "patch_embed.proj.bias": r(48)}
    for i, side in ((0, 14), (1, 64)):
        out |= {f"blocks.{i}.attn.rel_pos_{axis}": r(2 * side - 1, 4) for axis in "hw"}
    out |= {"neck.0.weight": r(256, 48, 1, 1), "neck.2.weight": r(256, 256, 3, 3)} | norms("neck.1", "neck.3", dim=256)
    decoder = {"mask_decoder.iou_token.weight": r(1, 256)}
    return behind("image_encoder.", out) | decoder


def eva02() -> State:
    """EVA-02 after masked image modelling: rotary buffers in every block, lm_head, mask_token."""
    out = {"cls_token": r(1, 1, 48), "mask_token": r(1, 1, 48), "pos_embed": r(1, 257, 48)}
    out |= {"patch_embed.proj.weight": r(48, 3, 14, 14), "patch_embed.proj.bias": r(48)} | norms("norm", dim=48)
    for i in range(2):
        b = f"blocks.{i}."
        out |= norms(b + "norm1", b + "norm2", dim=48) | norms(b + "mlp.ffn_ln", dim=128)
        out |= {f"{b}attn.{x}_proj.weight": r(48, 48) for x in "qkv"} | linear(b + "attn.proj", 48, 48)
        out |= {b + "attn.q_bias": r(48), b + "attn.v_bias": r(48)}
        out |= {f"{b}attn.rope.freqs_{f}": r(256, 16) for f in ("cos", "sin")}
        out |= linear(b + "mlp.w1", 128, 48) | linear(b + "mlp.w2", 128, 48) | linear(b + "mlp.w3", 48, 128)
    return out | linear("lm_head", 64, 48) | {f"rope.freqs_{f}": r(256, 16) for f in ("cos", "sin")}


def biomed_clip() -> State:
    """OpenCLIP around a timm ViT, with a projection and a text tower of transformers."""
    state = behind("visual.trunk.", vit()) | {"visual.head.proj.weight": r(32, 48), "logit_scale": torch.tensor(4.6)}
    return state | {"text.transformer.embeddings.word_embeddings.weight": r(9, 8)}


LOADED: dict[str, tuple[Callable[[], Any], str, dict[str, Any], tuple[str, ...]]] = {
    "resized": (
        lambda: vit(classes=1000),
        TINY,
        {"img_size": (64, 64)},
        ("custom_load=False", "img_size=64", "not by checkpoint_path=, which converts nothing", "guessed from 196"),
    ),
    "timm-train": (
        lambda: {
            "state_dict": vit(classes=1000),
            "state_dict_ema": layer_scale(vit(classes=1000)),
            "optimizer": {},
            "epoch": 3,
        },
        TINY,
        {"options": SMALL | {"init_values": 0.1}},
        ("under state_dict_ema", "beside it under state_dict: timm_native"),
    ),
    "eva02-pre-training": (
        lambda: {"module": eva02()},
        EVA02,
        {"img_size": (448, 448), "options": SMALL | {"mlp_ratio": 128 / 48}},
        ("format eva02_mim", "under module", "grid 32x32"),
    ),
    "dinov2-in-timms-names": (
        lambda: layer_scale(vit(patch=14, rows=1369)) | {"reg_token": r(1, 4, 48)},
        DINOV2_REGISTERS,
        {"img_size": (224, 224)},
        ("format timm_native", "grid 37x37", "grid 16x16"),
    ),
    "dinov2-other-patch": (
        lambda: layer_scale(vit(patch=14, rows=1370)) | {"mask_token": r(1, 48)},
        DINOV2,
        {"patch_size": (16, 16), "img_size": (640, 640)},
        ("format dinov2", "patch 16x16, grid 40x40", "patch_size=16, img_size=640"),
    ),
    "distilled": (
        lambda: {"model": vit(rows=198, classes=1000) | {"dist_token": r(1, 1, 48)} | linear("head_dist", 1000, 48)},
        "deit_tiny_distilled_patch16_224",
        {"img_size": (512, 512)},
        ("format deit_distilled", "grid 32x32"),
    ),
    "open-clip-trunk": (biomed_clip, TINY, {}, ("format openclip_trunk", "num_classes=32")),
    "open-clip-trunk-said": (biomed_clip, TINY, {"num_classes": 32}, ("format openclip_trunk", "num_classes=32")),
    "open-clip-trunk-headless": (biomed_clip, TINY, {"num_classes": 0}, ("32 classes -> 0", "num_classes=0")),
    "one-channel": (
        lambda: vit(chans=1, classes=1000),
        TINY,
        {"in_chans": 1},
        ("in_chans=1",),
    ),
    "pooled": (
        lambda: {"model": pooled(vit(classes=1000))},
        TINY,
        {"options": SMALL | {"global_pool": "avg"}},
        ("global_pool='avg'",),
    ),
}


@pytest.mark.parametrize("kind", LOADED)
def test_a_file_that_loads_is_said_to_and_the_call_is_printed(check, kind):
    content, model, asked, told = LOADED[kind]
    answer, text = check(content(), model, **asked)
    assert answer.exit_code == 0, text
    assert "the call model = timm.create_model(" in text
    assert answer.forward is not None
    assert answer.forward.verdict == "same", text
    missing = [part for part in told if part not in text]
    assert not missing, text


@pytest.mark.parametrize(
    ("content", "opened"),
    [
        (sam, ""),
        (lambda: {"model": sam(), "epoch": 3}, "under model"),
        (lambda: behind("module.", sam()), "behind module."),
    ],
    ids=["bare", "entry", "ddp"],
)
def test_a_size_that_timm_does_not_resample_to_is_a_known_limitation(check, content, opened):
    """The grid of SAM's positions stands in the file: it is no guess."""
    options = SMALL | {"num_heads": 12, "global_attn_indexes": (1,)}
    answer, text = check(content(), SAM, img_size=(512, 512), options=options)
    assert (answer.exit_code, answer.format, answer.opened) == (1, "sam", opened)
    assert "known limitation sam-nothing-resampled" in text
    assert "--fix OUT.safetensors" in text
    assert "guessed" not in text


# -- a model behind names that timm does not look behind -------------------------------------------------------------------


def radio() -> dict[str, Any]:
    """NVlabs' own .pth.tar."""
    state = layer_scale(blocks(48, 2)) | norms("norm", dim=48)
    state |= {"patch_generator.embedder.weight": r(48, 768), "patch_generator.pos_embed": r(1, 1024, 48)}
    state |= {"patch_generator.cls_token.token": r(8, 48)}
    conditioner = {"input_conditioner.norm_mean": r(3, 1, 1), "input_conditioner.norm_std": r(3, 1, 1)}
    args = argparse.Namespace(model=RADIO)
    return {"epoch": 1, "state_dict_ema": behind("base_model.", state) | conditioner, "args": args}


def test_radio_of_its_authors_is_found_and_written_for_timm(check, tmp_path):
    fixed = tmp_path / "fixed.safetensors"
    answer, text = check(radio(), RADIO, "radio.pth.tar", fix=str(fixed))
    assert answer.exit_code == 1
    assert (answer.format, answer.opened) == ("radio_bare", "under state_dict_ema, behind base_model.")
    assert "to do no timm release reads radio_bare; the reference does" in text
    assert "as the call above does" not in text, "that call loads nothing"
    assert "guessed" not in text, "RADIO's positions are a square"
    model = _by_code(answer.advice[-2:])
    assert torch.equal(
        model.cls_token, radio()["state_dict_ema"]["base_model.patch_generator.cls_token.token"][None, :1]
    )


def _by_code(code: list[str]) -> nn.Module:
    """The model that printed code makes. timm is imported after the check, which has the release it is to be."""
    import safetensors.torch
    import timm

    space: dict[str, Any] = {"timm": timm, "safetensors": safetensors}
    exec(compile("\n".join(code), "code", "exec"), space)
    return space["model"]


# -- other forms of a model --------------------------------------------------------------------------------------------------


def beit(dim: int = 48) -> dict[str, Any]:
    """BEiT of pre-training: one table for all blocks, lm_head, mask_token, a norm and no classifier."""
    state = {k: v for k, v in vit(dim).items() if not k.endswith(("qkv.bias", "pos_embed"))}
    state |= {f"blocks.{i}.attn.{x}_bias": r(dim) for i in range(2) for x in "qv"}
    state |= {f"blocks.{i}.gamma_{n}": 0.1 + r(dim) for i in range(2) for n in (1, 2)}
    state |= {"rel_pos_bias.relative_position_bias_table": r(27 * 27 + 3, 3), "mask_token": r(1, 1, dim)}
    state |= {"rel_pos_bias.relative_position_index": torch.zeros(197, 197, dtype=torch.long)}
    return {"model": state | linear("lm_head", 32, dim)}


def test_pre_training_of_beit_is_told_and_what_it_needs(check):
    answer, text = check(beit(), BEIT)
    assert answer.exit_code == 2
    assert "cause BEiT pre-training: one table of relative positions for all blocks" in text
    assert "--num-classes 0 --option global_pool=token, --fix copies the shared table to every block" in text


def test_pre_training_of_beit_is_written_for_a_model_with_a_table_for_each_block(check, tmp_path):
    options = SMALL | {"global_pool": "token"}
    fixed = tmp_path / "fixed.safetensors"
    answer, text = check(beit(), BEIT, num_classes=0, options=options, fix=str(fixed))
    assert answer.exit_code == 1, "no timm release reads such a file into such a model"
    assert answer.causes[0].startswith("BEiT pre-training"), text
    model = _by_code(answer.advice[-2:])
    table = beit()["model"]["rel_pos_bias.relative_position_bias_table"]
    assert [torch.equal(block.attn.relative_position_bias_table, table) for block in model.blocks] == [True, True]


@pytest.mark.parametrize(("asked", "given"), [(None, 1), (3, 3)])
def test_pre_training_of_mae_is_a_known_limitation(check, asked, given):
    """One input channel. Three are asked for by --in-chans also where the registered model has three."""
    state = vit(chans=1) | {"mask_token": r(1, 1, 32), "decoder_pos_embed": r(1, 197, 32)}
    state |= linear("decoder_embed", 32, 48) | norms("decoder_norm", "decoder_blocks.0.norm1", dim=32)
    answer, text = check({"model": state, "args": argparse.Namespace(model="mae_vit")}, in_chans=asked)
    assert answer.exit_code == 1
    assert answer.in_chans == (1, given)
    assert f"in_chans={given}" in answer.call[0]
    assert "known limitation mae-decoder-passed-on" in text
    assert "7 tensors are unexpected" in text


def test_a_pooled_model_is_told_the_option(check):
    state = pooled(vit(192, 12, classes=1000))
    answer, _ = check({"model": state}, options={})
    assert answer.exit_code == 2
    assert f'timm.create_model("{TINY}", global_pool="avg")' in answer.advice[0]


def test_one_more_token_is_named_and_no_other_width(check):
    answer, text = check(vit(192, 12, rows=198) | {"pretext_token": r(1, 1, 192)}, options={})
    assert answer.exit_code == 2
    assert "198 rows of positions" in text
    assert "pretext_token" in text
    assert "vit_small" not in text
    assert "vit_base" not in text


def test_a_token_that_the_format_knows_is_an_option_and_no_cause(check, tmp_path):
    """transformers' DeITForImageClassification has a distillation token without a classifier of its own."""
    state = tensors("transformers_deit", CHECKED, **SMALL, reg_tokens=1, names="saved", bare=False)
    answer, _ = check(state, "deit_tiny_patch16_224")
    assert (answer.exit_code, answer.causes) == (2, [])
    assert "--option reg_tokens=1" in answer.advice[0]
    answer, text = check(
        state, "deit_tiny_patch16_224", options=SMALL | {"reg_tokens": 1}, fix=str(tmp_path / "fixed.safetensors")
    )
    assert (answer.exit_code, answer.causes) == (1, [])
    assert answer.fixed, text


def test_a_file_of_another_size_names_the_models_of_that_size(check):
    answer, _ = check(vit(384, 12, classes=1000), options={})
    assert answer.exit_code == 2
    fitting = [line for line in answer.advice if line.startswith("every tensor fits")]
    assert fitting
    assert all(
        "vit_small_patch16_224" in line or "deit_small" in line or "vit_small_patch16_384" in line for line in fitting
    )


def test_biases_that_timms_model_lacks_name_the_model_that_has_them(check):
    """DINOv3's mask of the key biases lies in the file; its query and value biases are trained."""
    state = layer_scale(vit(384, 12), 384, 12)
    state = {k: v for k, v in state.items() if k != "pos_embed"} | {"storage_tokens": r(1, 4, 384)}
    state |= {"mask_token": r(1, 384), "rope_embed.periods": torch.rand(16) + 1}
    mask = torch.cat([torch.ones(384), torch.zeros(384), torch.ones(384)])
    state |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in range(12)}
    _, text = check(state, "vit_small_patch16_dinov3.lvd1689m", options={})
    assert "vit_small_patch16_dinov3_qkvb.lvd1689m" in text


# -- files that no loader can use ----------------------------------------------------------------------------------------------


def lora() -> State:
    name = "base_model.model.blocks.{}.attn.qkv.lora_{}.weight"
    return {name.format(i, x): r(8, 48) if x == "A" else r(144, 8) for i in range(2) for x in "AB"}


def lora_with_base() -> State:
    adapters = {k.replace("_A.", "_A.default.").replace("_B.", "_B.default."): v for k, v in lora().items()}
    return adapters | {
        f"base_model.model.{k.replace('attn.qkv.', 'attn.qkv.base_layer.')}": v for k, v in vit().items()
    }


def quantised() -> State:
    """bitsandbytes: int8 with a scale for each row."""
    state = vit(classes=1000)
    for name in [k for k in state if k.endswith("qkv.weight")]:
        state[name] = (state[name] * 100).to(torch.int8)
        state[name.replace("weight", "SCB")] = torch.ones(len(state[name]))
    return state


def satmae() -> dict[str, Any]:
    state = {k: v for k, v in vit().items() if not k.startswith("patch_embed")} | {"channel_embed": r(1, 3, 16)}
    for group, chans in enumerate((4, 4, 2)):
        state |= {f"patch_embed.{group}.proj.weight": r(48, chans, 8, 8), f"patch_embed.{group}.proj.bias": r(48)}
    return {"model": state, "args": argparse.Namespace(grouped_bands=[[0, 1]])}


def intern_vit() -> State:
    state = {k.replace("blocks.", "encoder.layers."): v for k, v in blocks(48, 2).items()}
    state |= {f"encoder.layers.{i}.ls{n}": r(48) for i in range(2) for n in (1, 2)}
    state |= {"embeddings.class_embedding": r(1, 1, 48), "embeddings.position_embedding": r(1, 1025, 48)}
    return state | {"embeddings.patch_embedding.weight": r(48, 3, 14, 14), "embeddings.patch_embedding.bias": r(48)}


def zero3() -> dict[str, Any]:
    return {"module": {k: torch.empty(0) for k in vit(classes=1000)}, "ds_config": {}, "ds_version": "0.15.0"}


@pytest.mark.parametrize(
    ("content", "name", "reason", "to_do"),
    [
        (satmae, "file.pth", "the layout of SatMAE with groups of channels", "no model of timm has that"),
        (intern_vit, "file.safetensors", "the layout of InternViT", "rename embeddings.class_embedding to cls_token"),
        (lora, "file.safetensors", "LoRA adapters alone, 4 tensors", "merge_and_unload()"),
        (lora_with_base, "file.safetensors", "not merged", "merge_and_unload()"),
        (quantised, "file.pth", "quantised weights", "dequantise"),
        (zero3, "file.pth", "DeepSpeed ZeRO-3", "zero_to_fp32.py"),
    ],
    ids=["satmae", "internvit", "adapters", "adapters-beside", "int8", "zero3"],
)
def test_one_cause_is_the_reason_whatever_number_of_tensors_it_touches(check, content, name, reason, to_do):
    answer, text = check(content(), name=name)
    assert answer.exit_code == 2, text
    assert any(reason in line for line in (answer.refused, *answer.causes)), text
    assert to_do in " ".join(answer.advice), text


def test_deepspeeds_names_lie_under_module(check):
    content = {
        "module": vit(classes=1000),
        "ds_config": {"train_batch_size": 8},
        "ds_version": "0.15.0",
        "lr_scheduler": None,
    }
    answer, text = check(content)
    assert answer.opened == "under module"
    assert "152" not in text
    assert "loads it; 32 tensors agree with the reference" in text


# -- files by other names, and programs ------------------------------------------------------------------------------------------


def test_torchscript_is_a_program(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    with pytest.raises(UserError, match=r"a TorchScript archive, .*torch\.jit\.load\(FILE\)\.state_dict"):
        check_checkpoint(Request(str(path), TINY))


def test_a_scalar_of_numpy_is_read_and_told(tmp_path):
    """OpenCLIP's training script leaves one beside the tensors. torch.load refuses the file, and that is said."""
    path = tmp_path / "epoch.pt"
    torch.save({"state_dict": vit(), "scaler": {"scale": np.float64(1.0)}}, path)
    found = check_checkpoint(Request(str(path), TINY, options=SMALL))
    assert found.read == [
        "1 of its values are numbers of numpy, which torch.load(weights_only=True) refuses: save them as Python's, float(x)"
    ]
    assert (found.exit_code, found.opened) == (1, "under state_dict, without numbers of numpy")
    assert "weights_only=False" in found.call[0]


@pytest.mark.parametrize(
    ("name", "writer", "better", "suffix"),
    [
        ("file.safetensors", torch.save, "torch.save wrote it, and its name tells timm and torch.load", ".pth"),
        ("file.bin", save_file, "safetensors wrote it, and its name tells timm", ".safetensors"),
    ],
)
def test_a_file_under_another_containers_name_is_read_and_told(tmp_path, name, writer, better, suffix):
    """torch.load goes by one suffix as well, so the suite's own reading has to look at the content."""
    path = tmp_path / name
    writer(vit(classes=1000), path)
    answer = check_checkpoint(Request(str(path), TINY, options=SMALL))
    assert answer.exit_code == 1, "the target cannot read it"
    assert answer.format == "timm_native"
    assert answer.notes == [f"{better} something else: rename it to {path.with_suffix(suffix).name}"]


@pytest.mark.parametrize("name", ["file.pth", "file.pt", "file.bin", "file.ckpt", "file.pth.tar"])
def test_names_that_torch_save_is_given_tell_nothing(check, name):
    answer, _ = check(vit(classes=1000), name=name)
    assert (answer.exit_code, answer.notes) == (0, [])
