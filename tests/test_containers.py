"""`check` on folders, shards and msgpack: what is read, what lies beside it, what the target is given, and what is answered."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import container_folders as folders
from tests.check_files import TINY, native, tensors
from tests.fuzz.watch import Limits, peak, watched
from tests.hostile_files import saved
from tests.hostile_tensors import state
from tests.test_check import answer, elsewhere, said
from tests.test_check_command import check
from timm_conformance.check.reading import Beside, beside, container_of, locate, read
from timm_conformance.targets.target import MODEL_RELEASE, activate, parse_target

CONFIG = {
    "architecture": TINY.partition(".")[0],
    "num_classes": 1000,
    "num_features": 192,
    "global_pool": "token",
    "pretrained_cfg": {
        "num_classes": 1000,
        "input_size": [3, 224, 224],
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    },
}


@functools.cache
def whole() -> dict[str, Tensor]:
    """A checkpoint of the tiny model in timm's names."""
    return native()


@functools.cache
def tree() -> dict[str, Tensor]:
    """A checkpoint of the tiny model as a Flax tree of vit_jax."""
    return tensors("google_npz", TINY, fc_norm=False, global_pool="token")


def found_beside(path: Path) -> Beside:
    """What lies beside the tensors at a path."""
    return beside(path, read(path))


# -- what is read ----------------------------------------------------------------------------------------------------


def _same(got: dict[str, Any], want: dict[str, Tensor]) -> bool:
    return got.keys() == want.keys() and all(
        torch.equal(got[k], v) and got[k].dtype == v.dtype for k, v in want.items()
    )


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize("named", ["folder", "index"])
def test_shards_are_read_together(kind: str, named: str, tmp_path: Path) -> None:
    index = folders.shards(tmp_path, state(), kind)
    path = index if named == "index" else index.parent
    assert container_of(path) == f"shards of {kind}"
    assert _same(read(path), state())
    there = found_beside(path)
    assert there.index == index.name
    assert there.notes == [f"read from {index.name} and its 3 shards"]
    assert set(there.metadata) == ({"format", "shard0", "shard1", "shard2"} if kind == "safetensors" else set())


def test_a_distributed_checkpoint_is_read_as_it_was_saved(tmp_path: Path) -> None:
    """Nested, in every dtype, with what can be read without running code; the rest is named."""
    content = {
        "app": {"model": state() | {"half": torch.ones(3, dtype=torch.bfloat16), "scalar": torch.tensor(3)}},
        "optimizer": [torch.zeros(2), {"step": torch.tensor(1)}],
        "epoch": 3,
        "config": {"lr": 0.1, "names": ["a", "b"]},
        "folder": Path("run"),
    }
    path = folders.distributed(tmp_path, content)
    found = read(path)
    assert container_of(path) == "torch.distributed.checkpoint"
    assert _same(found["app"]["model"], content["app"]["model"])
    assert found["epoch"] == 3
    assert found["config"]["lr"] == 0.1
    assert "folder" not in found
    assert found_beside(path).notes == ["not read, since only running code would read them: folder"]


def test_chunks_of_several_processes_are_put_together(tmp_path: Path) -> None:
    """Rows in two files, as two processes of FSDP write them."""
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    from tests.hostile_folders import tampered, torch_saved

    whole_tensor = state()["blocks.0.mlp.fc1.weight"]
    pieces = {0: whole_tensor[:5], 5: whole_tensor[5:]}
    name = "model.blocks.0.mlp.fc1.weight"

    def split(metadata: Any) -> None:
        sizes = {at: piece.shape for at, piece in pieces.items()}
        metadata.state_dict_metadata[name].chunks = [
            ChunkStorageMetadata(torch.Size((at, 0)), size) for at, size in sizes.items()
        ]
        (old,) = (index for index in metadata.storage_data if index.fqn == name)
        info = type(metadata.storage_data.pop(old))
        for at, piece in pieces.items():
            length = len(torch_saved(piece.clone()))
            metadata.storage_data[MetadataIndex(name, (at, 0))] = info(f"__{at}_0.other", 0, length)

    path = tampered(tmp_path, split)
    for at, piece in pieces.items():
        (path / f"__{at}_0.other").write_bytes(torch_saved(piece.clone()))
    assert _same(read(path)["model"], state())


def test_flax_msgpack_gives_the_names_of_the_tree(tmp_path: Path) -> None:
    flat = {
        "params/embedding/kernel": torch.arange(24.0).reshape(2, 3, 4),
        "params/embedding/bias": torch.ones(4, dtype=torch.bfloat16),
        "opt_state/0/count": torch.tensor(3),
    }
    path = folders.flax(tmp_path, {**folders.tree_of(flat), "step": 7, "name": "run"})
    assert container_of(path) == "msgpack"
    assert _same(read(path), flat)


@pytest.mark.parametrize("zipped", [True, False])
def test_arrays_and_numbers_of_numpy_are_read_without_code(zipped: bool, tmp_path: Path) -> None:
    """Of each dtype and order of bytes, with no values, in lists; they are told of."""
    arrays = {
        "big": np.arange(6, dtype=">f4").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "none": np.zeros((0, 3)),
        "half": np.ones(2, np.float16),
        "truth": np.array([True]),
    }
    path = tmp_path / "file.pth"
    content = {"model": arrays, "lists": [(np.ones(2), 1)], "best": np.float64(0.5), "own": torch.ones(1)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    got = read(path)
    native = {k: torch.from_numpy(v.astype(v.dtype.newbyteorder("="))) for k, v in arrays.items()}
    assert _same(got["model"], native)
    assert torch.equal(got["lists"][0][0], torch.ones(2, dtype=torch.float64))
    assert (got["lists"][0][1], got["best"]) == (1, 0.5)
    (note,) = found_beside(path).notes
    assert note.startswith(
        "6 of its values are numpy arrays, which torch.load(weights_only=True) refuses: save {k: torch.as"
    )


@pytest.mark.skipif(importlib.util.find_spec("tensorstore") is None, reason="tensorstore is not installed")
@pytest.mark.parametrize("database", [True, False], ids=["ocdbt", "folders"])
def test_orbax_gives_the_names_of_the_tree(database: bool, tmp_path: Path) -> None:
    """As orbax writes it: zarr arrays in an OCDBT database, or in a folder each, and the tree in _METADATA."""
    import tensorstore

    flat = {"params/embedding/kernel": torch.arange(24.0).reshape(2, 3, 4), "params/bias": torch.ones(4)}
    leaves = {}
    for name, tensor in flat.items():
        keys = name.split("/")
        base = {"driver": "file", "path": f"{tmp_path}/"}
        inner = f"{'.'.join(keys)}/"
        store = {"driver": "ocdbt", "base": base, "path": inner} if database else base | {"path": f"{tmp_path}/{inner}"}
        tensorstore.open(
            {"driver": "zarr", "kvstore": store}, create=True, dtype="float32", shape=list(tensor.shape)
        ).result().write(tensor.numpy()).result()
        leaves[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
        }
    leaves["('step',)"] = {
        "key_metadata": [{"key": "step"}],
        "value_metadata": {"value_type": "None", "skip_deserialize": True},
    }
    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": leaves, "use_zarr3": False}))
    assert container_of(tmp_path) == "orbax"
    assert _same(read(tmp_path), flat)


def _of_shards(folder: Path, content: dict[str, Tensor]) -> Path:
    return folders.shards(folder, content, count=2)


def _of_torch_shards(folder: Path, content: dict[str, Tensor]) -> Path:
    return folders.shards(folder, content, "pth", count=2)


@pytest.mark.parametrize(
    ("writer", "copies"),
    [(_of_shards, 0), (_of_torch_shards, 0), (folders.distributed, 2), (folders.flax, 2)],
    ids=["shards", "torch_shards", "distributed", "flax"],
)
def test_memory_stays_within_the_file_and_the_model(writer: Any, copies: int, tmp_path: Path) -> None:
    """Shards are mapped. A tensor of another container is read from its file into memory once, and into the model's."""
    content = {"a": torch.zeros(2**24), "b": torch.zeros(1)}
    paths = []
    for name, held in (("small", {"a": torch.zeros(1), "b": torch.zeros(1)}), ("large", content)):
        (tmp_path / name).mkdir()
        paths.append(writer(tmp_path / name, held))
    outcome = watched(lambda: str(_growth(*paths)), Limits(memory=2**30))
    assert outcome.kind == "done", outcome.text
    assert int(outcome.text) < content["a"].nbytes * copies + 2**25


def _growth(small: Path, large: Path) -> int:
    """Bytes that reading the ``large`` checkpoint adds to the most memory that this process had after the ``small`` one.

    The first read brings in the pages of the code that reads.
    """
    read(small)
    before = peak()
    assert read(large)["a"].shape == (2**24,)
    return peak() - before


# -- what lies beside it ---------------------------------------------------------------------------------------------


def test_config_and_metadata_lie_beside_a_model(tmp_path: Path) -> None:
    path = folders.hugging_face(tmp_path, state(), CONFIG)
    (path / "pytorch_model.bin").write_bytes(b"older")
    for named in (path, path / "model.safetensors"):
        there = found_beside(named)
        assert (there.config, there.metadata) == (CONFIG, {"format": "pt"})
    assert found_beside(path).notes == ["read from model.safetensors", "not read: pytorch_model.bin"]
    assert found_beside(path / "model.safetensors").notes == []
    assert locate(path).is_file


def test_the_configuration_of_another_file_is_not_used(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert found_beside(tmp_path / "mine.safetensors").config == {}


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (
            {"state_dict": state(), "pytorch-lightning_version": "2.4.0"},
            "a checkpoint of Lightning 2.4.0: its weights are the entry state_dict",
        ),
        (
            {"module": state(), "ds_config": {}, "ds_version": "0.15.0"},
            "a checkpoint of DeepSpeed 0.15.0: its weights are the entry module",
        ),
    ],
    ids=["lightning", "deepspeed"],
)
def test_what_saved_a_file_is_said(content: dict[str, Any], note: str, tmp_path: Path) -> None:
    assert found_beside(saved(tmp_path, content)).notes == [note]


def test_a_configuration_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = folders.hugging_face(tmp_path, state())
    (path / "config.json").write_bytes(b"[" * 100_000)
    note = found_beside(path).notes[-1]
    assert note.startswith("not used: ")
    assert "config.json: damaged or cut off" in note


# Before lines that import timm: the release that they are for.
_ACTIVATED = """
from timm_conformance.targets.target import activate, parse_target
activate(parse_target("timm=={release}"))
"""


# -- what the target is given ----------------------------------------------------------------------------------------


def test_the_folder_itself_is_given_where_timm_takes_it(tmp_path: Path) -> None:
    path = folders.hugging_face(tmp_path, whole(), CONFIG)
    found = answer(path, img_size=(96, 96), num_classes=10)
    assert (found.exit_code, found.tensors, found.container) == (0, 150, "safetensors")
    assert found.given == f'the folder, as create_model("local-dir:{path}", pretrained=True)'
    assert f"it was given {found.given}" in said(found, path)


@pytest.mark.parametrize(
    ("saved_at", "img_size", "as_folder"), [(224, None, True), (32, (32, 32), True), (32, None, False)]
)
def test_a_folder_of_timms_own(saved_at: int, img_size: Any, as_folder: bool, tmp_path: Path) -> None:
    """As ``save_for_hf`` writes it, with the arguments of the model: they make another model, or are those asked for."""
    activate(parse_target(f"timm=={MODEL_RELEASE}"))
    import timm
    from timm.models._hub import save_for_hf

    path = tmp_path / "timm"
    save_for_hf(
        timm.create_model(CONFIG["architecture"], img_size=saved_at, num_classes=7), str(path), safe_serialization=True
    )
    found = answer(path, img_size=img_size)
    assert (found.exit_code, found.tensors, found.classes) == (0, 152, (7, 7))
    assert found.given.startswith("the folder" if as_folder else "model.safetensors alone, since config.json builds"), (
        found.given
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "it has no config.json"),
        ({"model_type": "vit"}, "config.json names no architecture of timm"),
        (CONFIG | {"architecture": "vit_small_patch16_224"}, "config.json describes vit_small_patch16_224"),
        (
            CONFIG | {"model_args": {"dynamic_img_size": True}},
            "config.json builds the model with dynamic_img_size=True, which was not asked for",
        ),
        (CONFIG | {"num_classes": 7}, "config.json has 7 classes and 3 channels, the tensors 1000 and 3"),
    ],
    ids=["none", "transformers", "another", "options", "classes"],
)
def test_else_the_file_in_it_is(change: dict[str, Any] | None, why: str, tmp_path: Path) -> None:
    """With the reason, and with the same result."""
    found = answer(folders.hugging_face(tmp_path, whole(), change), img_size=(32, 32))
    assert (found.exit_code, found.tensors) == (0, 152)
    assert found.given == f"model.safetensors alone, since {why}"


def test_an_old_release_is_given_the_file(tmp_path: Path) -> None:
    found = elsewhere(folders.hugging_face(tmp_path, whole(), CONFIG), TINY, "timm==0.9.16")
    assert (found.exit_code, found.tensors) == (0, 152)
    assert found.given == "model.safetensors alone, since timm 0.9.16 has no local-dir:"


def _sharded(folder: Path) -> Path:
    return folders.shards(folder, whole()).parent


def _distributed(folder: Path) -> Path:
    return folders.distributed(folder, {"model": whole(), "epoch": 3, "folder": Path("run")})


def _flax(folder: Path) -> Path:
    return folders.flax(folder, {"params": folders.tree_of(tree()), "step": 4})


@pytest.mark.parametrize(
    ("writer", "container", "given"),
    [
        (_sharded, "shards of safetensors", "one .safetensors file of its tensors"),
        (_distributed, "torch.distributed.checkpoint", "one .pth file of its tensors"),
        (_flax, "msgpack", "one .npz file of its tensors"),
    ],
    ids=["shards", "distributed", "flax"],
)
def test_else_one_file_of_the_tensors_is(writer: Any, container: str, given: str, tmp_path: Path) -> None:
    """Other classes, channels and sizes than the checkpoint's work as for a file."""
    found = answer(writer(tmp_path), img_size=(32, 32), num_classes=10, in_chans=1)
    assert (found.exit_code, found.container, found.loaded) == (1, container, True), (
        "timm does not read it as it stands"
    )
    assert found.tensors == 150
    assert found.given == given
    assert found.unread.startswith(f"timm=={MODEL_RELEASE} does not read {container}")


@pytest.mark.parametrize("release", [MODEL_RELEASE, "0.9.16"])
@pytest.mark.parametrize("content", ["shards", "distributed"])
def test_the_lines_of_a_container_that_timm_does_not_read_load_it(content: str, release: str, tmp_path: Path) -> None:
    """They read it by torch or safetensors alone, and end in a model with the file's tensors."""
    if content == "shards":
        path = _sharded(tmp_path)
    else:
        path = folders.distributed(
            tmp_path, {"app": {"model": {f"net.{k}": v for k, v in whole().items()}}, "run": Path("a")}
        )
    found = elsewhere(path, TINY, f"timm=={release}")
    code = "\n".join(["import json, pathlib, safetensors.torch, torch.distributed.checkpoint, timm", *found.call])
    code += "\nimport sys; torch.save(model.state_dict(), sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-c", _ACTIVATED.format(release=release) + code, str(tmp_path / "out.pth")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    got = torch.load(tmp_path / "out.pth", weights_only=True)
    assert all(torch.equal(got[name], tensor) for name, tensor in whole().items())


def test_no_lines_are_told_for_what_takes_more_than_a_few(tmp_path: Path) -> None:
    found = answer(_flax(tmp_path))
    assert (found.call, found.unread) == ([], f"timm=={MODEL_RELEASE} does not read msgpack")
    assert "call above" not in " ".join(found.advice)


def test_the_reference_and_functions_are_given_what_was_read(tmp_path: Path) -> None:
    found = elsewhere(_distributed(tmp_path), TINY, "reference", img_size=(32, 32))
    assert (found.exit_code, found.given) == (0, "")


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_reads_and_fixes_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "fixed.safetensors"
    path = _sharded(tmp_path)
    done = check(path, "--model", TINY, "--img-size", "32", "--fix", out)
    assert done.exit_code == 1, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"checkpoint  {path}, shards of safetensors"
    assert lines[1].strip() == "read from model.safetensors.index.json and its 3 shards"
    assert load_file(out)["pos_embed"].shape == (1, 5, 192)


def test_the_arguments_that_a_folder_of_timms_own_saves_are_asked_for(tmp_path: Path) -> None:
    """``--model FOLDER`` means the model that ``local-dir:`` builds of it; what is typed comes before."""
    one_block = {k: v for k, v in whole().items() if not k.startswith("blocks.") or k.startswith("blocks.0.")}
    folder = folders.hugging_face(tmp_path, one_block, CONFIG | {"model_args": {"depth": 1, "img_size": 32}})
    done = check(folder, "--model", folder)
    assert done.exit_code == 0, done.output
    assert f'timm.create_model("local-dir:{folder}", pretrained=True' in " ".join(done.stdout.split())
    assert check(folder, "--model", folder, "--option", "depth=2").exit_code == 2


def test_nothing_is_written_into_the_checkpoint(tmp_path: Path) -> None:
    path = folders.hugging_face(tmp_path, state())
    done = check(path, "--model", TINY, "--fix", path / "model.safetensors")
    assert done.exit_code == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.endswith("model.safetensors: this is in the folder of the checkpoint; write it elsewhere")


def test_a_shard_alone_is_one_line(tmp_path: Path) -> None:
    index = folders.shards(tmp_path, state())
    command = [sys.executable, "-m", "timm_conformance.cli.main", "check", "--model", TINY]
    shard = index.parent / "model-00002-of-00003.safetensors"
    done = subprocess.run([*command, str(shard)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"one shard of 3, a part of the tensors; its index is {index.name}: name {index}")
