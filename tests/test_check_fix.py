"""What `check --fix` writes: a file that every timm release loads by a strict load, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.check_files import CLIP, TINY, native, save, tensors
from tests.test_check import answer
from timm_conformance.check import fix
from timm_conformance.errors import UserError
from timm_conformance.targets import subprocess_call

# Load a file strictly, and by create_model where that is asked for; say whether its tensors are in the model.
_LOAD = """
import json, sys
import torch
from safetensors.torch import load_file
from timm_conformance.targets.target import activate, parse_target
activate(parse_target(f"timm=={sys.argv[1]}"))
import timm
for path, model, options, overlay in json.loads(sys.argv[2]):
    file = load_file(path)
    loaded = [timm.create_model(model, **options)]
    loaded[0].load_state_dict(file, strict=True)
    if overlay is not None:
        overlay = dict(overlay, file=path, custom_load=False)
        loaded.append(timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **options))
    for one in loaded:
        state = one.state_dict()
        print(state.keys() == file.keys() and all(torch.equal(state[k], v.to(state[k].dtype)) for k, v in file.items()))
"""


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> list:
    """Three written files, with how they are loaded: #2120's, one of other channels and classes, one that no release reads."""
    folder = tmp_path_factory.mktemp("fixed")
    clip, tiny = folder / "clip.safetensors", folder / "tiny.safetensors"
    path = save(folder, tensors("openai_clip", CLIP, (32, 32), (7, 7), "float16"))
    assert answer(path, CLIP, patch_size=(16, 16), img_size=(224, 448), fix=str(clip)).fixed == str(clip)
    answer(save(folder, native()), patch_size=(8, 8), img_size=(96, 160), num_classes=10, in_chans=1, fix=str(tiny))
    theirs = folder / "theirs.safetensors"
    path = save(folder, tensors("torchvision_vit_older", TINY), "pth")
    assert answer(path, patch_size=(8, 8), img_size=(96, 160), fix=str(theirs)).fixed == str(theirs)
    sizes = {"patch_size": 16, "img_size": [224, 448]}
    others = {"patch_size": 8, "img_size": [96, 160], "num_classes": 10, "in_chans": 1}
    return [
        [str(clip), CLIP, sizes, {"input_size": [3, 224, 448], "num_classes": 512}],
        # Old releases take every file for one of three channels: only a strict load is for all of them.
        [str(tiny), TINY, others, None],
        [str(theirs), TINY, {"patch_size": 8, "img_size": [96, 160]}, None],
    ]


@pytest.mark.parametrize("release", ["0.9.0", "0.9.16", "1.0.31"])
def test_every_release_loads_the_file(fixed, release):
    """By a strict load, and through create_model, into just the tensors of the file."""
    command = [sys.executable, "-c", _LOAD, release, json.dumps(fixed)]
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_call.environment(), timeout=280)
    assert done.stdout.split() == ["True"] * 4, done.stderr


def test_a_new_classifier_is_fit_for_training(fixed):
    """Of the classes asked for, with finite values that differ; the channels are the sum of the checkpoint's."""
    state = load_file(fixed[1][0])
    assert state["head.weight"].shape == (10, 192)
    assert state["head.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert not state["head.bias"].any()
    assert state["patch_embed.proj.weight"].shape == (192, 1, 8, 8)


def test_the_file_says_what_made_it(fixed):
    """Its metadata: the format it came from, and what was asked."""
    with safe_open(fixed[0][0], "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    made = json.loads(metadata["made_from"])
    assert (made["format"], made["model"], made["img_size"]) == ("openai_clip", CLIP, [224, 448])


def test_shared_and_strided_tensors_are_written_whole(tmp_path):
    """safetensors takes neither; what is written equals what was given."""
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"a": whole, "same": whole, "turned": whole.T, "row": whole[1]}
    out = tmp_path / "out.safetensors"
    fix.write(out, state, {})
    found = load_file(out)
    assert all(torch.equal(found[k], v) for k, v in state.items())
    assert [p.name for p in tmp_path.iterdir()] == ["out.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """Nothing half-written under the name, and nothing beside it."""
    out = tmp_path / "out.safetensors"
    out.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fix, "save_file", full)
    with pytest.raises(UserError, match=r"--fix .*: No space left on device"):
        fix.write(out, {"a": torch.zeros(1)}, {})
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("checkpoint.safetensors", "this is the checkpoint itself"),
        ("out.pth", "name it OUT.safetensors"),
        ("nowhere/out.safetensors", "there is no folder"),
        ("folder.safetensors", "this is a folder"),
    ],
)
def test_where_a_file_cannot_go(tmp_path, out, says):
    """Said before any work is done."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.touch()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match=says):
        fix.check_path(tmp_path / out, checkpoint)


def test_a_file_that_cannot_be_written_is_no_fault_of_the_checkpoint(tmp_path, monkeypatch):
    """It is said as it is, and not that the reference refuses."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fix, "save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        answer(save(tmp_path, native()), fix=str(tmp_path / "out.safetensors"))


def test_nothing_is_written_of_a_checkpoint_that_is_refused(tmp_path):
    """A refused checkpoint has no conversion."""
    state = native()
    del state["norm.weight"]
    out = tmp_path / "out.safetensors"
    found = answer(save(tmp_path, state), fix=str(out))
    assert (found.exit_code, found.fixed) == (2, "")
    assert not Path(out).exists()
