"""Broken and hostile files: one clear line, no traceback, no code run, bounded memory and time; and strange ones are read."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fuzz.watch import Limits, Watch, watched
from tests.hostile_files import state
from tests.hostile_folders import HOSTILE, ODD
from tests.small_vit import GEOMETRY, image_encoder, model
from timm_conformance import reference
from timm_conformance.check.protocol import Request
from timm_conformance.check.reading import container_of, limits, read
from timm_conformance.check.sanity import require_weights
from timm_conformance.check.worker import answer_request
from timm_conformance.checkpoints.files import write
from timm_conformance.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
_LIMITS = Limits(seconds=5, memory=100 * 2**20)


def load(path: Path) -> dict:
    """A file as ``check`` takes it, as far as the reference."""
    content = read(path)
    require_weights(reference.unwrap(content))
    return reference.load_state_dict(content, model(GEOMETRY))


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    writer, words = HOSTILE[name]
    path = writer(tmp_path)
    outcome = watched(lambda: str(len(load(path))), _LIMITS)
    assert outcome.kind == "refused", outcome.text
    assert words in outcome.text
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ODD)
def test_it_is_read(name: str, tmp_path: Path) -> None:
    assert load(ODD[name](tmp_path)).keys() == state().keys()


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ODD["old_pickle"](tmp_path)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # to the superuser nothing is denied
    with pytest.raises(UserError, match=r"checkpoint\.pth: Permission denied$"):
        read(path)


def test_arrays_larger_than_the_memory_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(state(), "bare", "npz", tmp_path)
    monkeypatch.setattr(limits, "memory", lambda: 1000)
    with pytest.raises(UserError, match="more than this machine's memory"):
        read(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint16, torch.bool, torch.bfloat16], ids=str)
@pytest.mark.parametrize("container", ["safetensors", "pth"])
def test_every_dtype_is_read_and_the_kind_is_told_by_the_content(
    dtype: torch.dtype, container: str, tmp_path: Path
) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    path = write({"a": tensor}, "bare", container, tmp_path).rename(tmp_path / "renamed.npz")
    assert container_of(path) == container
    (found,) = read(path).values()
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))


def test_arrays_become_tensors_by_the_names_of_their_tree(tmp_path: Path) -> None:
    tensors = {"params/img/embedding/bias": torch.arange(4).to(torch.bfloat16), "count": torch.tensor(3)}
    path = write(tensors, "bare", "npz", tmp_path)
    found = read(path)
    assert container_of(path) == "npz"
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in tensors.items())


def test_wrappers_are_kept_as_they_were_saved(tmp_path: Path) -> None:
    found = read(ODD["arguments_of_a_training_script"](tmp_path))
    assert list(found) == ["model", "args", "epoch"]
    assert found["model"].keys() == state().keys()


@pytest.mark.parametrize("container", ["safetensors", "pth"])
def test_a_large_file_is_mapped_and_not_copied(container: str, tmp_path: Path) -> None:
    """Reading its checksum passes through the pages of a file, which are nobody's memory."""
    path = write({"a": torch.zeros(2**25)}, "bare", container, tmp_path)
    outcome = watched(lambda: str(read(path)["a"].shape), Limits(memory=2**26))
    assert outcome.kind == "done", outcome.text


def test_tuples_within_tuples_are_one_line(tmp_path: Path) -> None:
    """Written as torch.save writes a dict of a tuple, which has no depth that it refuses."""
    path = tmp_path / "deep.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("deep/data.pkl", b"\x80\x02}X\x01\x00\x00\x00t" + b")" + b"\x85" * 5000 + b"s.")
        archive.writestr("deep/version", "3\n")
    with pytest.raises(UserError, match="tuples nested too deeply"):
        read(path)


def test_names_outside_the_image_encoder_may_hold_anything() -> None:
    tensors, _ = image_encoder(GEOMETRY, "openai_clip", pre_norm=True)
    require_weights(tensors | {"text.weight": torch.full((2,), float("nan")), "logit_scale": torch.zeros(0)})
    with pytest.raises(UserError, match=r"NaN or infinite values: visual\.class_embedding;"):
        require_weights(tensors | {"visual.class_embedding": torch.full((8,), float("nan"))})


# One of each way to be refused: by its first bytes, its container, what it declares, what its tensors are.
_CHECKED = [
    "missing",
    "safetensors_cut_off",
    "pickle_that_runs_code",
    "zip_packed_again",
    "npz_bomb",
    "view_blown_up",
    "sparse_tensor",
    "meta_tensor",
    "nan",
    "grid_of_size_zero",
    "text_model",
    "another_model",
    "dict_that_holds_itself",
    "a_shard_alone",
    "deepspeed_zero",
    "metadata_that_runs_code",
    "distributed_chunk_that_runs_code",
    "msgpack_shape_huge",
]


@pytest.fixture(scope="module")
def check() -> Iterator[Watch]:
    """A process that checks one file after another."""

    def checked(path: str) -> str:
        answer = answer_request(Request(path=path, model="vit_tiny_patch16_224"))
        return f"{answer.exit_code} {answer.unusable or answer.refused}"

    with Watch(checked, Limits(seconds=60, memory=2**29)) as watch:
        yield watch


@pytest.mark.parametrize("name", _CHECKED)
def test_check_answers_with_one_line_and_exit_code_2(name: str, tmp_path: Path, check: Watch) -> None:
    writer, words = HOSTILE[name]
    outcome = check.do(str(writer(tmp_path)))
    assert outcome.kind == "done", outcome.text
    assert outcome.text.startswith("2 ")
    assert outcome.text.isprintable()
    assert words in outcome.text
    assert not (tmp_path / "executed").exists()


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    path = HOSTILE["lfs_pointer"][0](tmp_path)
    command = [sys.executable, "-m", "timm_conformance.cli.main", "check", str(path), "--model", "vit_tiny_patch16_224"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line == f"timm-conformance: checkpoint {path}: this is {HOSTILE['lfs_pointer'][1].removeprefix('this is ')}"
