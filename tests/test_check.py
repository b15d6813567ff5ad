"""What `check` finds: agreement, refusals and silent differences, and what it says of them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch

from tests.check_files import CLIP, TINY, native, save, tensors
from timm_conformance.check.checker import check_checkpoint
from timm_conformance.check.protocol import Answer, Request
from timm_conformance.check.render import lines
from timm_conformance.check.sizes import channels as channels_note
from timm_conformance.errors import UserError
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.targets import subprocess_call

TWO_BLOCKS = {"depth": 2}


def answer(path: Path, model: str = TINY, **more) -> Answer:
    """The answer of a check on the newest release, in this process."""
    return check_checkpoint(Request(str(path), model, **more))


def elsewhere(path: Path, model: str, target: str, **more) -> Answer:
    """The answer of a check on another release, in a process of its own."""
    request = Request(str(path), model, target, **more)
    return subprocess_call.call("timm_conformance.check.worker", request, Answer, target, 280)


def said(found: Answer, path: Path) -> str:
    """An answer as it is printed."""
    return "\n".join(f"{label} {line}" for label, line in lines(found, path))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A CLIP ViT-B/32 of two blocks; :data:`TWO_BLOCKS` is what its model is asked for with."""
    state = tensors("openai_clip", CLIP, (32, 32), (7, 7), "float16", **TWO_BLOCKS)
    return save(tmp_path_factory.mktemp("clip"), state)


@functools.cache
def _plain() -> dict:
    return native()


@pytest.mark.parametrize(
    ("container", "wrapper", "opened"),
    [("safetensors", "bare", ""), ("pth", "bare", ""), ("pth", "model.state_dict", "under model.state_dict")],
)
def test_a_checkpoint_in_timms_names_agrees(tmp_path, container, wrapper, opened):
    """In every container and wrapper: exit code 0, every tensor compared, the forward run, and said what was opened."""
    path = save(tmp_path, _plain(), container, wrapper)
    found = answer(path)
    assert lines(found, path)[0] == ("checkpoint", ", ".join(filter(None, (str(path), container, opened))))
    assert (found.exit_code, found.format, found.families[0]) == (0, "timm_native", "timm_native")
    assert found.tensors == 152
    assert found.forward.verdict == "same"
    assert found.forward.taken["num_heads"] == 3


def test_an_npz_checkpoint_agrees(tmp_path):
    """timm reads a .npz file itself, into the model; its models have another gelu than flax, and that is said."""
    state = tensors("google_npz", TINY, fc_norm=False, global_pool="token")
    path = save(tmp_path, state, "npz")
    found = answer(path)
    assert (found.exit_code, found.format, found.tensors) == (0, "google_npz", 152)
    assert found.forward.verdict == "differs"
    assert "no loader's doing" in found.advice[0]
    assert "tanh" in found.advice[1]
    # What ran was loaded for that, and not compared.
    assert answer(path, img_size=(240, 240)).advice == found.advice[1:]


@pytest.mark.parametrize("suffix", ["pt", "bin"])
def test_the_content_tells_the_container_not_the_suffix(tmp_path, suffix):
    """.pt and .bin files are what torch.save wrote."""
    path = save(tmp_path, _plain(), "pth").rename(tmp_path / f"checkpoint.{suffix}")
    found = answer(path)
    assert (found.exit_code, found.container) == (0, "pth")


def test_2120_is_a_refusal_that_the_ledger_explains(clip):
    """The bug of the README: what differs, which entry, and the release that mended it."""
    found = elsewhere(clip, CLIP, "timm==0.9.16", options=TWO_BLOCKS, patch_size=(8, 8))
    assert (found.exit_code, found.loaded) == (1, False)
    kernel, grid = found.differences
    assert (kernel.kind, kernel.tensor, kernel.entries) == ("shape", "patch_embed.proj.weight", ["clip-early-return"])
    assert (grid.kind, grid.tensor, grid.entries) == ("value", "pos_embed", ["clip-grid-not-antialiased"])
    assert "upgrade to timm 1.0.3 or later, where this is mended" in found.advice
    assert any("--fix" in line for line in found.advice)
    assert found.forward.verdict == "same"  # at its own size 0.9.16 loads it


def test_other_values_are_found_though_nothing_is_refused(clip):
    """The silent side of #2120: 0.9.16 resizes the grid of CLIP checkpoints another way."""
    found = elsewhere(clip, CLIP, "timm==0.9.16", options=TWO_BLOCKS, img_size=(448, 448))
    assert (found.exit_code, found.loaded, found.error) == (1, True, "")
    (grid,) = found.differences
    assert (grid.tensor, grid.entries) == ("pos_embed", ["clip-grid-not-antialiased"])
    assert grid.fraction > 100
    assert "loads it without complaint, but not as the reference does" in said(found, clip)


def test_the_newest_release_agrees_on_the_same_file(clip):
    """Patch and image size changed at once."""
    found = answer(clip, CLIP, options=TWO_BLOCKS, patch_size=(16, 16), img_size=(224, 448))
    assert (found.exit_code, found.differences) == (0, [])
    assert str(found.destination) == "patch 16x16, grid 14x28"
    assert 0 < found.fraction <= 1


def test_sizes_may_be_other_than_square(tmp_path):
    """PxQ and SxT: height and width are not mixed up."""
    found = answer(save(tmp_path, _plain()), patch_size=(8, 16), img_size=(96, 160))
    assert (found.exit_code, str(found.destination)) == (0, "patch 8x16, grid 12x10")


def test_an_image_that_patches_do_not_fill(tmp_path):
    """The forward is that of the checkpoint's own size, whatever the model's image has beyond its patches."""
    found = answer(save(tmp_path, _plain()), img_size=(230, 230))
    assert (found.exit_code, found.source) == (0, found.destination)
    assert found.forward.verdict == "same"


@pytest.mark.parametrize(("classes", "channels"), [(10, 1), (0, 4), (None, 3)])
def test_other_classes_and_channels(tmp_path, classes, channels):
    """The first convolution is adapted, the classifier the model's own, and the rest compared."""
    found = answer(save(tmp_path, _plain()), num_classes=classes, in_chans=channels)
    assert (found.exit_code, found.differences) == (0, [])
    assert found.tensors == (152 if classes is None else 150)
    assert found.classes == (1000, 1000 if classes is None else classes)
    assert found.in_chans == (3, channels)
    said = {
        1: ["the model's one channel is the sum of the file's 3"],
        4: ["the model has the file's 3 channels in turn, times 3/4"],
    }
    assert found.notes == said.get(channels, [])
    assert found.forward.verdict == "same"


def test_channels_that_are_dropped_are_told():
    """timm repeats channels up to the number asked for, so fewer of them leave the last ones out."""
    assert channels_note(6, 3) == [
        "the model has the first 3 of the file's 6 channels, times 6/3; the others are dropped"
    ]
    assert channels_note(3, 3) == []


def test_a_checkpoint_brings_its_own_number_of_classes(tmp_path):
    """Seven classes in a model registered with a thousand."""
    found = answer(save(tmp_path, native(num_classes=7)))
    assert (found.exit_code, found.classes, found.tensors) == (0, (7, 7), 152)


def test_a_wrong_tensor_is_found(tmp_path, monkeypatch):
    """A loader that is wrong in two blocks: one line for both, and no entry of the ledger explains it."""
    import timm.models.vision_transformer as module

    right = module.checkpoint_filter_fn

    def wrong(state_dict, model, **options):
        state = right(state_dict, model, **options)
        for n in (3, 7):
            state[f"blocks.{n}.mlp.fc1.weight"] = state[f"blocks.{n}.mlp.fc1.weight"] * (1 + n * 1e-3)
        return state

    monkeypatch.setattr(module, "checkpoint_filter_fn", wrong)
    path = save(tmp_path, _plain())
    found = answer(path)
    (wrong_blocks,) = found.differences
    assert (found.exit_code, wrong_blocks.tensor, wrong_blocks.count) == (1, "blocks.*.mlp.fc1.weight", 2)
    assert wrong_blocks.entries == []
    assert found.forward.verdict == "differs"
    assert "and has to be equal (2 tensors blocks.*.mlp.fc1.weight)" in said(found, path)


def test_a_tensor_that_is_lost_is_found(tmp_path, monkeypatch):
    """What a strict load misses is said by name."""
    import timm.models.vision_transformer as module

    right = module.checkpoint_filter_fn

    def wrong(state_dict, model, **options):
        state = right(state_dict, model, **options)
        state["stray"] = state.pop("norm.bias")
        return state

    monkeypatch.setattr(module, "checkpoint_filter_fn", wrong)
    found = answer(save(tmp_path, _plain()))
    assert (found.exit_code, found.loaded) == (1, False)
    assert {(d.kind, d.tensor) for d in found.differences} == {
        ("missing-key", "norm.bias"),
        ("unexpected-key", "stray"),
    }


def test_a_loader_that_raises_is_a_refusal(tmp_path, monkeypatch):
    """Its exception is the difference."""
    import timm.models.vision_transformer as module

    def wrong(state_dict, model, **options):
        raise KeyError("nowhere")

    monkeypatch.setattr(module, "checkpoint_filter_fn", wrong)
    found = answer(save(tmp_path, _plain()))
    assert (found.exit_code, found.loaded) == (1, False)
    assert found.differences[0].kind == "raises-KeyError"
    assert found.forward.verdict == "not compared"


def test_an_undecidable_grid_asks_for_the_input_size(tmp_path):
    """12 x 16 tokens are no square: refused with what to pass, and loaded once it is passed."""
    path = save(tmp_path, native(grid_size=(12, 16)))
    found = answer(path)
    assert found.exit_code == 2
    assert "192 position tokens form no square grid" in found.refused
    assert found.advice == ["pass --input-size HxW: the image size in pixels that the checkpoint was trained at"]
    told = answer(path, input_size=(192, 256), img_size=(224, 224))
    assert (told.exit_code, str(told.source)) == (0, "patch 16x16, grid 12x16")
    assert answer(path, input_size=(192, 256)).destination == told.source


@pytest.mark.parametrize(
    ("damage", "reason", "loads"),
    [
        (lambda s: s.pop("blocks.3.norm1.weight"), "missing: blocks.3.norm1.weight", False),
        (lambda s: s.update({"layer9.weight": torch.zeros(2)}), "unexpected: layer9.weight", False),
        (lambda s: s.update({"norm.bias": s["norm.bias"].clone().fill_(float("nan"))}), "NaN", True),
        (lambda s: s.update({"head.bias": s["head.bias"].to(torch.int64)}), "head.bias", True),
        (
            lambda s: s.update({"blocks.0.mlp.fc1.weight": s["blocks.0.mlp.fc1.weight"].T.contiguous()}),
            "fc1.weight",
            False,
        ),
        (lambda s: s.pop("patch_embed.proj.weight"), "unknown checkpoint format", False),
    ],
    ids=["missing", "extra", "nan", "integers", "transposed", "unknown"],
)
def test_a_checkpoint_the_reference_refuses(tmp_path, damage, reason, loads):
    """Exit code 2 with the reason, and whether the target refuses it, too, or loads it without complaint."""
    state = dict(_plain())
    damage(state)
    path = save(tmp_path, state)
    found = answer(path)
    assert (found.exit_code, found.loaded) == (2, loads)
    assert reason in found.refused
    assert ("all the same, without complaint" if loads else "refuses it, too") in said(found, path)


def test_a_checkpoint_of_another_model(tmp_path):
    """Of a known format, but with other options: with which one the model takes it."""
    state = tensors("dinov2", TINY, layer_scale=True, num_classes=0)
    found = answer(save(tmp_path, state))
    assert (found.exit_code, found.format) == (2, "dinov2")
    assert "does not fit the model" in found.refused
    assert f'every tensor fits timm.create_model("{TINY}", num_classes=0, init_values=1e-05)' in found.advice[0]


@pytest.mark.parametrize(
    ("model", "asked", "says"),
    [
        (f"{TINY}x", {}, f"did you mean '{TINY}'?"),
        ("resnet18", {}, "--model resnet18: ResNet is no Vision Transformer"),
        (TINY, {"img_size": (8, 8)}, "has a grid of 0x0: its image is smaller than a patch"),
        ("vit_tiny_r_s16_p8_224.augreg_in21k", {"patch_size": (16, 16)}, "with patch_size=16: AssertionError"),
    ],
)
def test_a_model_that_cannot_be_had(tmp_path, model, asked, says):
    """One line for each: no such model, none of ours, none of such sizes."""
    with pytest.raises(UserError, match=re.escape(says)):
        answer(save(tmp_path, _plain()), model, **asked)


def test_the_ledger_can_be_left_out(clip):
    """Without one, nothing is explained."""
    found = elsewhere(clip, CLIP, "timm==0.9.16", options=TWO_BLOCKS, img_size=(448, 448), ledger="none")
    assert [d.entries for d in found.differences] == [[]]
    assert load_ledger(DEFAULT_LEDGER).entry("clip-grid-not-antialiased")
