"""Files that people have: training checkpoints and their like, as public reports describe them, answered by the check command.

Each test writes a file in a real layout with made-up values, and holds the answer to what is true of such a file.
"""

from __future__ import annotations

import argparse
import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.check_files import CLIP, TINY, native, tensors
from timm_conformance.check.checker import check_checkpoint
from timm_conformance.check.names import model_name
from timm_conformance.check.protocol import Answer, Request
from timm_conformance.check.render import lines
from timm_conformance.errors import UserError, one_line
from timm_conformance.targets import subprocess_call


@functools.cache
def vit() -> dict[str, Tensor]:
    """A whole checkpoint of the tiny model in timm's names."""
    return native()


def other() -> dict[str, Tensor]:
    """Another one, of the same shapes."""
    return {name: tensor + 1 for name, tensor in vit().items()}


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.fixture
def check(tmp_path):
    """Write a .pth file and check it, by default on the newest release in this process; the answer and its text."""

    def run(content: Any, target: str = "", model: str = TINY, **more: Any) -> tuple[Answer, str]:
        path = tmp_path / "file.pth"
        torch.save(content, path)
        if target:
            request = Request(str(path), model, target, **more)
            answer = subprocess_call.call("timm_conformance.check.worker", request, Answer, target, 280)
        else:
            answer = check_checkpoint(Request(str(path), model, **more))
        return answer, "\n".join(f"{label} {line}" for label, line in lines(answer, Path("file.pth")))

    return run


def run_code(answer: Answer, folder: Path) -> torch.nn.Module:
    """The model that the printed call makes."""
    import timm

    space: dict[str, Any] = {"torch": torch, "timm": timm, "re": re, "argparse": argparse}
    code = "\n".join(answer.call)
    assert str(folder / "file.pth") in code
    exec(compile(code, "call", "exec"), space)
    return space["model"]


# -- where the model is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (
            lambda: {"teacher": behind("backbone.", vit()) | {"dino_head.last_layer.weight": torch.ones(2, 2)}},
            "teacher/backbone.",
        ),
        (
            lambda: {"model": behind("student.backbone.", other()) | behind("teacher.backbone.", vit())},
            "model/teacher.backbone.",
        ),
        (
            lambda: {"state_dict": behind("module.base_encoder.", vit()), "optimizer": {}},
            "state_dict/module.base_encoder.",
        ),
        (lambda: {"model_state": vit()}, "model_state/"),
        (
            lambda: {"state_dict_ema": behind("base_model.", vit()), "args": argparse.Namespace(lr=1)},
            "state_dict_ema/base_model.",
        ),
        (
            lambda: {
                "net": {
                    k.replace("blocks.", "blocks.0.", 1) if k.startswith("blocks.") else k: v for k, v in vit().items()
                }
            },
            "net/",
        ),
    ],
    ids=["dino-teacher", "flat-teacher", "moco", "model-state", "radio", "chunks"],
)
def test_it_is_found_told_compared_and_the_call_loads_it(check, tmp_path, content, where):
    """No timm opens such a file. The answer says where the model lies; the code that it prints gives every tensor of it."""
    answer, text = check(content())
    entry, prefix = where.split("/")
    assert answer.opened == ", ".join(filter(None, (f"under {entry}", f"behind {prefix}" if prefix else "")))
    assert answer.format == "timm_native"
    assert answer.exit_code == 1, text
    assert f"timm==1.0.31 does not look {answer.opened}: it finds none of the 152 tensors" in text
    assert "it loads it; 152 tensors agree with the reference, bit for bit" in text
    assert answer.forward is not None
    assert answer.forward.verdict == "same"
    model = run_code(answer, tmp_path)
    assert all(torch.equal(tensor, vit()[name]) for name, tensor in model.state_dict().items())


def inside(wrapper: str) -> dict[str, Tensor]:
    """The tiny model with a wrapper around each block."""
    return {re.sub(r"^(blocks\.\d+\.)", rf"\1{wrapper}", k): v for k, v in vit().items()}


@pytest.mark.parametrize(
    ("content", "opened", "said"),
    [
        (
            lambda: {"model": behind("_fsdp_wrapped_module.", inside("_fsdp_wrapped_module."))},
            "under model, behind _fsdp_wrapped_module., without _fsdp_wrapped_module. inside names",
            "timm==1.0.31 does not look under model, behind _fsdp_wrapped_module.: it finds none of the 152 tensors",
        ),
        (
            lambda: inside("_orig_mod."),
            "without _orig_mod. inside names",
            "timm==1.0.31 does not take _orig_mod. out of names: it finds 8 of the 152 tensors",
        ),
        (
            lambda: {"n_averaged": torch.tensor(5)} | behind("module.", vit()),
            "behind module., without n_averaged",
            "timm==1.0.31 does not leave out n_averaged, which its model has not, and refuses the file as it stands",
        ),
        (
            lambda: {"n_averaged": torch.tensor(5)} | inside("module."),
            "without module. inside names, without n_averaged",
            "does not take module. out of names",
        ),
    ],
    ids=["fsdp", "compiled", "average", "both"],
)
def test_what_training_left_in_a_state_dict_is_left_out(check, tmp_path, content, opened, said):
    """Wrappers inside names are one cause, counters a note. The comparison goes on, and the printed code does the same."""
    answer, text = check(content())
    assert (answer.opened, answer.exit_code) == (opened, 1)
    assert said in text
    assert "it loads it; 152 tensors agree with the reference, bit for bit" in text
    causes = [f"of 144 tensors (blocks.*.{w}norm1" for w in re.findall(r"without (\S+) inside", opened)]
    assert len(answer.causes) == len(causes)
    assert all(words in line for words, line in zip(causes, answer.causes))
    assert [note for note in answer.notes if "AveragedModel" in note] or "n_averaged" not in opened
    assert answer.forward is not None
    assert answer.forward.verdict == "same"
    model = run_code(answer, tmp_path)
    assert all(torch.equal(tensor, vit()[name]) for name, tensor in model.state_dict().items())


def test_arrays_of_numpy_are_read_and_the_call_makes_tensors(check, tmp_path):
    """As detectron2 saves them. torch.load refuses the file unless it may run code."""
    arrays = {name: tensor.numpy() for name, tensor in behind("backbone.net.", vit()).items()}
    answer, text = check({"model": arrays, "__author__": "me"})
    assert (answer.opened, answer.exit_code) == ("under model, behind backbone.net., made of numpy arrays", 1)
    assert answer.read[0].startswith("152 of its values are numpy arrays")
    assert "timm==1.0.31 does not read arrays of numpy, as torch.load(weights_only=True) does not" in text
    assert "it loads it; 152 tensors agree with the reference, bit for bit" in text
    model = run_code(answer, tmp_path)
    assert all(torch.equal(tensor, vit()[name]) for name, tensor in model.state_dict().items())


def test_what_else_the_file_holds_is_told(check, tmp_path):
    """Another tower with its format, tensors that are no tower's, and the names of all else. --fix writes what was taken."""
    content = {
        "teacher": behind("backbone.", vit()),
        "student": behind("backbone.", other()),
        "loss": torch.ones(2),
        "epoch": 3,
        "ema": {"decay": 0.9, "shadow_params": list(other().values())},
    }
    answer, _ = check(content, fix=str(tmp_path / "fixed.safetensors"))
    assert answer.beside == [
        "under student, behind backbone.: timm_native, 152 tensors",
        "1 other tensor at the top",
        "152 tensors without names under ema.shadow_params, in the order of model.parameters()",
        "without tensors: epoch",
    ]
    assert answer.fixed


def test_an_optimizers_state_is_no_model(check):
    """One line says what the file holds; no format is near."""
    state = {"state": {0: {"exp_avg": torch.ones(64)}}, "param_groups": []}
    answer, text = check({"optimizer": state, "epoch": 3})
    assert (answer.exit_code, answer.refused) == (
        2,
        "it holds the state of an optimizer (exp_avg under optimizer) and no model",
    )
    assert "nearest known format" not in text


def test_the_user_chooses_another_entry(check):
    """The one that timm would not open; the answer is about it."""
    answer, text = check({"state_dict": vit(), "state_dict_ema": other()})
    assert (answer.exit_code, answer.opened) == (0, "under state_dict_ema")
    assert "under state_dict: timm_native, 152 tensors" in text
    answer, text = check({"state_dict": vit(), "state_dict_ema": other()}, entry="state_dict")
    assert answer.opened == "under state_dict"


def test_several_as_likely_are_listed(check):
    """Neither is taken, and the target's load is told."""
    answer, text = check({"net_a": vit(), "net_b": other()})
    assert answer.exit_code == 2
    assert "several models in this checkpoint: under net_a: timm_native, 152 tensors; under net_b: timm_native" in text
    assert "choose one with --entry or --prefix" in text


def test_several_as_likely_behind_prefixes_of_one_entry_are_listed(check):
    """timm opens the entry that holds both, which is no layout of its own. A prefix chooses."""
    content = {"state_dict": behind("net1.", vit()) | behind("net2.", other()) | {"queue": torch.ones(2)}, "epoch": 1}
    answer, text = check(content)
    assert answer.exit_code == 2
    first, second = (f"under state_dict, behind {p}: timm_native, 152 tensors" for p in ("net1.", "net2."))
    assert f"several models in this checkpoint: {first}; {second}; choose one with --entry or --prefix" in text
    assert answer.beside == ["1 other tensor under state_dict", "without tensors: epoch"]
    assert "unknown checkpoint format" not in text
    assert check(content, prefix="net2.")[0].opened == "under state_dict, behind net2."


def test_the_trained_encoder_of_moco_is_taken(check):
    """Its momentum encoder is told of beside it."""
    content = behind("module.encoder_k.", other()) | behind("module.encoder_q.", vit())
    answer, _ = check({"state_dict": content | {"module.queue": torch.ones(2)}})
    assert answer.opened == "under state_dict, behind module.encoder_q."
    assert answer.beside == [
        "under state_dict, behind module.encoder_k.: timm_native, 152 tensors",
        "1 other tensor under state_dict",
    ]


def test_an_older_release_that_reads_less_is_told_which_one_reads_it(check):
    """What 1.0.31 reads bit for bit, 0.9.16 does not look for: one line, and the release that does."""
    compiled = behind("module._orig_mod.", vit())
    answer, _ = check(compiled)
    assert answer.exit_code == 0
    answer, text = check(compiled, target="timm==0.9.16")
    assert answer.exit_code == 1
    assert "timm==0.9.16 does not look behind module._orig_mod." in text
    assert "upgrade to timm 1.0.8 or later, which reads what lies behind module._orig_mod." in text
    assert "is missing" not in text


# -- the user's call ---------------------------------------------------------------------------------------------------


def test_the_call_is_printed_and_checkpoint_path_is_told_of(check, tmp_path):
    """Another image size: the overlay loads it, checkpoint_path= converts nothing."""
    answer, text = check(vit(), img_size=(64, 64))
    assert answer.exit_code == 0, text
    assert run_code(answer, tmp_path).pos_embed.shape == (1, 17, 192)
    assert [line.partition(":")[0] for line in answer.not_by] == ["checkpoint_path=, which converts nothing"]
    assert "size mismatch for pos_embed" in answer.not_by[0]


def test_an_option_of_create_model_is_passed_on(check, tmp_path):
    """A file with fc_norm, as fine-tuning by mean pooling saves it, needs global_pool=avg."""
    pooled = {k.replace("norm.", "fc_norm.") if k.startswith("norm.") else k: v for k, v in vit().items()}
    assert check(pooled)[0].exit_code == 2
    answer, text = check(pooled, options={"global_pool": "avg"})
    assert answer.exit_code == 0, text
    assert "global_pool='avg'" in answer.call[-1]
    assert run_code(answer, tmp_path).global_pool == "avg"


def test_numbers_asked_for_are_passed_on_where_they_are_the_registered_ones(check, tmp_path):
    """Three channels of a file of one. 1.0.31 adapts it, 0.9.16 raises: both are what the user would see."""
    grey = vit() | {"patch_embed.proj.weight": vit()["patch_embed.proj.weight"][:, :1]}
    answer, text = check(grey, in_chans=3, num_classes=1000)
    assert answer.exit_code == 0, text
    assert "num_classes=1000, in_chans=3" in answer.call[-1]
    assert run_code(answer, tmp_path).patch_embed.proj.weight.shape == (192, 3, 16, 16)
    assert check(grey, target="timm==0.9.16", in_chans=3)[0].exit_code == 1


def test_a_refusal_that_another_number_of_classes_would_hide_is_told(check):
    """A file of nothing that the model has: refused, and loaded as nothing where the load is not strict."""
    _, text = check({"a.weight": torch.ones(2), "b.weight": torch.ones(3)})
    assert "refuses it, too" in text
    assert "beware: with another num_classes= the load is not strict" in text
    assert "uses none of its tensors" in text
    _, text = check({"a.weight": torch.ones(2), "b.weight": torch.ones(3)}, num_classes=10)
    assert "loads it all the same, without complaint: 0 tensors of the model" in text


# -- what was not compared ---------------------------------------------------------------------------------------------


def test_openais_activation_is_told_and_not_taken_from_the_model(check):
    """What lies beside the tensors shows its file. The plain model has another one; the model that has it is named."""
    state = tensors("openai_clip", CLIP, (32, 32), (7, 7))
    state |= {
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    answer, text = check(state, model=CLIP)
    assert "a file of OpenAI's, whose models have QuickGELU" in text
    assert answer.forward is not None
    assert answer.forward.verdict == "differs"
    assert "act" not in answer.forward.taken
    assert "--model vit_base_patch32_clip_quickgelu_224.openai has QuickGELU" in text


def test_what_was_taken_from_the_model_is_not_said_to_agree(check):
    """The output is the same where upstream has what the model has; that is not known."""
    answer, text = check(vit())
    assert answer.exit_code == 0
    assert "agrees with" not in text
    assert "not compared, since no tensor tells it and it was taken from the model: num_heads=3" in text


def test_a_guessed_grid_has_alternatives(check):
    """196 tokens are 14x14, and 7x28 as well. Where the user has said it, or nothing is resampled, nothing is guessed."""
    _, text = check(vit(), img_size=(64, 64))
    assert "the grid 14x14 is guessed from 196 position tokens" in text
    assert "7x28 (--input-size 112x448)" in text
    assert "is guessed from" not in check(vit(), img_size=(64, 64), input_size=(112, 448))[1]
    assert "is guessed from" not in check(vit())[1]


def test_what_a_training_script_noted_is_told(check):
    """Heads of a configuration, the model's name of the arguments."""
    content = {"model": vit(), "args": argparse.Namespace(model="deit_tiny"), "config": {"num_attention_heads": 3}}
    answer, text = check(content)
    assert "the file names its model: deit_tiny (args)" in text
    assert "told outside the tensors: num_heads=3 (config)" in text
    assert answer.forward is not None
    assert "num_heads" not in answer.forward.taken


# -- names and sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [TINY, f"timm/{TINY}", f"hf-hub:timm/{TINY}", f"hf_hub:timm/{TINY}@main"])
def test_names_as_the_hub_writes_them(text):
    """They mean the registered model."""
    assert model_name(text) == TINY


def test_a_folder_names_its_architecture(tmp_path):
    """As timm's save_for_hf writes it; a folder of another library has none, and another owner's name is no model of timm."""
    (tmp_path / "config.json").write_text(
        '{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"tag": "augreg_in21k"}}'
    )
    assert model_name(str(tmp_path)) == model_name(f"local-dir:{tmp_path}") == "vit_tiny_patch16_224.augreg_in21k"
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"]}')
    with pytest.raises(UserError, match="names no architecture"):
        model_name(str(tmp_path))
    for content in ("", "[" * 10**6, "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=rf"^--model {tmp_path}: .*config\.json"):
            model_name(str(tmp_path))
    with pytest.raises(UserError, match="only timm/NAME is a registered model"):
        model_name("hf-hub:google/vit-base-patch16-224")


def test_an_image_size_that_patches_do_not_fill_is_told(check):
    """What timm does with the rest of the image."""
    _, text = check(vit(), img_size=(70, 64))
    assert (
        "--img-size 70x64 is no multiple of the patch 16x16: timm makes a grid of 4x4 and leaves out the last 6 rows"
        in text
    )


def test_colours_of_a_terminal_are_left_out_of_messages():
    """Other unprintable characters are escaped."""
    assert one_line("\x1b[31mError\x1b[0m: bad\x07") == "Error: bad\\x07"
