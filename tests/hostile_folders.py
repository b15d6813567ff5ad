"""Checkpoints in folders, shards and msgpack that are broken, hostile or no checkpoints; and strange ones that are to be read."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from tests.container_folders import distributed, extension, flax, hugging_face, new, shards
from tests.hostile_files import Call, odd, refused, saved, state, written
from tests.hostile_tensors import HOSTILE, ODD

__all__ = ["HOSTILE", "ODD"]

# -- other containers, by their content ------------------------------------------------------------------------------


@refused("this is an HDF5 file, not a checkpoint; Keras writes these")
def hdf5(folder: Path) -> Path:
    return written(folder, b"\x89HDF\r\n\x1a\n" + bytes(100), "h5")


@refused("this is a GGUF file, not a checkpoint; its tensors are renamed and mostly quantised")
def gguf(folder: Path) -> Path:
    return written(folder, b"GGUF\x03\0\0\0" + bytes(100), "gguf")


@refused("an ONNX model, a graph whose tensors have lost the names of their modules")
def onnx(folder: Path) -> Path:
    """The fields ir_version, producer_name, graph and opset_import."""
    graph = b"\x0a\x04node" * 40
    content = b"\x08\x08\x12\x07pytorch" + b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph
    return written(folder, content + b"\x42\x04\x0a\x00\x10\x11", "onnx")


@refused("neither a .safetensors file nor one of torch.save, numpy.savez or flax")
def nearly_onnx(folder: Path) -> Path:
    """A graph that is longer than the file."""
    return written(folder, b"\x08\x08\x12\x07pytorch\x3a\xff\xff\xff\xff\x0f" + b"node" * 40, "onnx")


# -- folders that are no single checkpoint ---------------------------------------------------------------------------


def touched(folder: Path, *names: str) -> Path:
    """A folder of files with a few bytes each."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"part")
    return folder


@refused(
    "for the float32 weights, run `python zero_to_fp32.py . OUT` in it and name what it writes, or name global_step7/mp_rank"
)
def deepspeed_zero(folder: Path) -> Path:
    names = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return touched(folder, "zero_to_fp32.py", "latest", *(f"global_step7/{name}" for name in names))


@refused("run `python -m deepspeed.utils.zero_to_fp32")
def deepspeed_zero_without_its_script(folder: Path) -> Path:
    return touched(folder, "zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt")


@refused("a part of a DeepSpeed checkpoint without its weights; run the zero_to_fp32.py")
def deepspeed_optimizer(folder: Path) -> Path:
    return saved(folder, {"optimizer_state_dict": {"zero_stage": 1}, "ds_config": {}, "ds_version": "0.15.0"})


@refused(
    "it holds a deepspeed.runtime.LossScaler, which only running its code would read: a part of a DeepSpeed checkpoint; run "
)
def deepspeed_class(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "checkpoint.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cdeepspeed.runtime\nLossScaler\n.")
        archive.writestr("archive/version", b"3\n")
    return folder / "checkpoint.pt"


@refused("several files may be the checkpoint, name one: epoch_1.pth, epoch_2.pth")
def several_files(folder: Path) -> Path:
    return touched(folder, "epoch_1.pth", "epoch_2.pth")


@refused("no checkpoint lies in this folder itself, but in folders of it; name one: checkpoint-1, checkpoint-2")
def folder_of_folders(folder: Path) -> Path:
    return touched(folder, "checkpoint-1/model.safetensors", "checkpoint-2/model.safetensors")


@refused("an Orbax database without its _METADATA")
def orbax_without_its_tree(folder: Path) -> Path:
    return touched(folder, "manifest.ocdbt", "d/0")


@refused("parts of torch.distributed.checkpoint without their .metadata")
def distributed_without_metadata(folder: Path) -> Path:
    return touched(folder, "__0_0.distcp", "__1_0.distcp")


if importlib.util.find_spec("tensorstore") is None:

    @refused("an Orbax checkpoint, whose arrays the library tensorstore reads: pip install tensorstore")
    def orbax_without_tensorstore(folder: Path) -> Path:
        (folder / "_METADATA").write_text('{"tree_metadata": {}}')
        return folder


# -- shards ----------------------------------------------------------------------------------------------------------


@refused("one shard of 3, a part of the tensors; its index is model.safetensors.index.json: name ")
def a_shard_alone(folder: Path) -> Path:
    return shards(folder, state()).parent / "model-00002-of-00003.safetensors"


@refused("one shard of 3, a part of the tensors, and its index pytorch_model.bin.index.json is not beside it")
def a_shard_without_its_index(folder: Path) -> Path:
    index = shards(folder, state(), "pth")
    index.unlink()
    return index.parent


def index_of(folder: Path, change: Callable[[dict[str, str]], Any]) -> Path:
    """A folder of shards whose index was changed."""
    index = shards(folder, state())
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))
    return index.parent


@refused("an index names files beside it, and this one names ../model-00001-of-00003.safetensors")
def index_that_leads_elsewhere(folder: Path) -> Path:
    return index_of(folder, lambda files: files.update({"norm.weight": "../model-00001-of-00003.safetensors"}))


@refused("get all shards into the folder of the index; missing: model-00002-of-00003.safetensors")
def shard_missing(folder: Path) -> Path:
    index = shards(folder, state())
    (index.parent / "model-00002-of-00003.safetensors").unlink()
    return index


@refused("of another save than its index: model.safetensors.index.json lists tensors that it lacks, head.extra")
def index_of_another_save(folder: Path) -> Path:
    return index_of(folder, lambda files: files.update({"head.extra": "model-00001-of-00003.safetensors"}))


@refused("it holds tensors that another shard of model.safetensors.index.json holds too: norm.weight")
def tensor_in_two_shards(folder: Path) -> Path:
    index = shards(folder, state())
    save_file(state(), index.parent / "model-00003-of-00003.safetensors")
    for name in ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"):
        save_file({"norm.weight": torch.ones(8)}, index.parent / name)
    index.write_text(json.dumps({"weight_map": {f"{i}": f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}}))
    files = {"norm.weight": "model-00001-of-00003.safetensors", "norm.bias": "model-00003-of-00003.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    return index


@refused("damaged or cut off, get it again")
def shard_cut_off(folder: Path) -> Path:
    index = shards(folder, state())
    path = index.parent / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    return index


@refused("it holds a posix.mkdir, which only running its code would read")
def shard_that_runs_code(folder: Path) -> Path:
    index = shards(folder, state(), "pth")
    path = index.parent / "pytorch_model-00002-of-00003.bin"
    torch.save(torch.load(path) | {"epoch": Call(os.mkdir, str(folder / "executed"))}, path)
    return index


@refused("its shards are of several kinds: npz, safetensors")
def shards_of_several_kinds(folder: Path) -> Path:
    index = shards(folder, state())
    with zipfile.ZipFile(index.parent / "model-00002-of-00003.safetensors", "w") as archive:
        archive.writestr("norm.weight.npy", b"")
    return index


@refused("damaged or cut off, get it again")
def index_of_numbers(folder: Path) -> Path:
    return written(folder, b'{"weight_map": {"norm.weight": 3}}', "json")


@refused("damaged or cut off, get it again")
def index_nested_deeply(folder: Path) -> Path:
    return written(folder, b'{"metadata":' + b"[" * 100_000, "json")


# -- torch.distributed.checkpoint ------------------------------------------------------------------------------------


def tampered(folder: Path, change: Callable[[Any], Any]) -> Path:
    """A folder of torch.distributed.checkpoint whose metadata was changed."""
    path = distributed(folder, {"model": state()})
    metadata = pickle.loads((path / ".metadata").read_bytes())  # our own
    (path / ".metadata").write_bytes(pickle.dumps(change(metadata) or metadata))
    return path


def with_metadata(folder: Path, content: bytes) -> Path:
    """A folder of torch.distributed.checkpoint with other bytes for metadata."""
    path = distributed(folder, {"model": state()})
    (path / ".metadata").write_bytes(content)
    return path


@refused("it holds a posix.mkdir, which only running its code would read")
def metadata_that_runs_code(folder: Path) -> Path:
    return tampered(folder, lambda m: setattr(m, "planner_data", Call(os.mkdir, str(folder / "executed"))))


@refused("it holds a posix.mkdir, which only running its code would read")
def metadata_that_is_code(folder: Path) -> Path:
    return with_metadata(folder, pickle.dumps(Call(os.mkdir, str(folder / "executed"))))


@refused("damaged or cut off, get it again")
def metadata_that_changes_a_class(folder: Path) -> Path:
    where = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"
    return with_metadata(folder, b"\x80\x02" + where + b"N}X\x08\x00\x00\x00__hash__Ns\x86b.")


@refused("its pickle takes more memory than metadata can")
def metadata_with_a_memo_of_gigabytes(folder: Path) -> Path:
    return with_metadata(folder, b"\x80\x02}r\xff\xff\xff\x7f.")


@refused("it has the pickle opcode BYTEARRAY8, which no such metadata has")
def metadata_with_bytes_without_end(folder: Path) -> Path:
    return with_metadata(folder, b"\x80\x05\x96\x04" + bytes(7) + b"text.")


@refused("damaged or cut off, get it again")
def metadata_cut_off(folder: Path) -> Path:
    path = distributed(folder, {"model": state()})
    return with_metadata(new(folder, "more"), (path / ".metadata").read_bytes()[:-30])


@refused("it holds no metadata of torch.distributed.checkpoint")
def metadata_of_something_else(folder: Path) -> Path:
    return with_metadata(folder, pickle.dumps({"state_dict_metadata": {}}))


@refused("a part of the checkpoint is missing, get it again: __0_0.distcp")
def distributed_part_missing(folder: Path) -> Path:
    path = distributed(folder, {"model": state()})
    (path / "__0_0.distcp").unlink()
    return path


@refused("cut off: its metadata declares ")
def distributed_part_cut_off(folder: Path) -> Path:
    path = distributed(folder, {"model": state()})
    (path / "__0_0.distcp").write_bytes((path / "__0_0.distcp").read_bytes()[:-100])
    return path


def _name_elsewhere(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.relative_path = "../outside.distcp"


@refused("it names files outside the folder: ../outside.distcp")
def distributed_part_elsewhere(folder: Path) -> Path:
    return tampered(folder, _name_elsewhere)


def _blow_up(metadata: Any) -> None:
    tensor = metadata.state_dict_metadata["model.norm.weight"]
    tensor.size = tensor.chunks[0].sizes = torch.Size((2**40, 8))


@refused("its tensors declare 35,184,37")
def distributed_tensor_blown_up(folder: Path) -> Path:
    return tampered(folder, _blow_up)


def _leave_a_gap(metadata: Any) -> None:
    tensor = metadata.state_dict_metadata["model.norm.weight"]
    tensor.chunks = [type(tensor.chunks[0])(torch.Size((at,)), torch.Size((4,))) for at in (0, 2)]


@refused("the chunks of model.norm.weight do not make up its shape (8,)")
def distributed_chunks_with_a_gap(folder: Path) -> Path:
    return tampered(folder, _leave_a_gap)


def _declare_another_shape(metadata: Any) -> None:
    tensor = metadata.state_dict_metadata["model.norm.weight"]
    tensor.size = tensor.chunks[0].sizes = torch.Size((7,))


@refused("a chunk of model.norm.weight is (8,) of torch.float32, declared as (7,) of torch.float32")
def distributed_chunk_of_another_shape(folder: Path) -> Path:
    return tampered(folder, _declare_another_shape)


@refused("its metadata puts two entries at the place of")
def distributed_entries_at_one_place(folder: Path) -> Path:
    return tampered(folder, lambda m: m.planner_data.update(dict.fromkeys(m.planner_data, ("model", "norm"))))


def with_chunk(folder: Path, content: bytes) -> Path:
    """A folder of torch.distributed.checkpoint whose norm.weight is these bytes."""

    def change(metadata: Any) -> None:
        (info,) = (i for at, i in metadata.storage_data.items() if at.fqn == "model.norm.weight")
        info.relative_path, info.offset, info.length = "other.distcp", 0, len(content)

    path = tampered(folder, change)
    (path / "other.distcp").write_bytes(content)
    return path


def torch_saved(content: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@refused("it holds a posix.mkdir, which only running its code would read")
def distributed_chunk_that_runs_code(folder: Path) -> Path:
    return with_chunk(folder, torch_saved(Call(os.mkdir, str(folder / "executed"))))


@refused("the part at byte 0 was not written by torch.save")
def distributed_chunk_that_is_a_pickle(folder: Path) -> Path:
    return with_chunk(folder, torch_saved(torch.zeros(8), _use_new_zipfile_serialization=False))


@refused("packed again with compression; torch.save stores tensors as they are")
def distributed_chunk_compressed(folder: Path) -> Path:
    buffer = BytesIO()
    with (
        zipfile.ZipFile(BytesIO(torch_saved(torch.zeros(2**26)))) as plain,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for member in plain.namelist():
            archive.writestr(member, plain.read(member))
    return with_chunk(folder, buffer.getvalue())


@odd
def distributed_in_one_process(folder: Path) -> Path:
    return distributed(folder, {"model": state(), "epoch": 3})


@odd
def distributed_object_that_would_run_code(folder: Path) -> Path:
    """The tensors do not need the object, so it is left alone."""
    return distributed(folder, {"model": state(), "extra": Call(os.mkdir, str(folder / "executed"))})


# -- flax's msgpack --------------------------------------------------------------------------------------------------


def msgpack(folder: Path, content: Any) -> Path:
    """A file of msgpack, of values or of bytes."""
    return written(folder, content if isinstance(content, bytes) else msgspec.msgpack.encode(content), "msgpack")


@refused("damaged or cut off, get it again")
def msgpack_cut_off(folder: Path) -> Path:
    return msgpack(folder, flax(folder, state()).read_bytes()[:-100])


@refused("a tree of more than 1,048,576 entries")
def msgpack_of_billions_of_entries(folder: Path) -> Path:
    return msgpack(folder, b"\xdf\xff\xff\xff\xff\xa1a\x81\xa1b\x01")


@refused("a tree of more than 64 levels")
def msgpack_nested_deeply(folder: Path) -> Path:
    return msgpack(folder, b"\x81\xa1a" * 200 + b"\x01")


@refused("damaged or cut off, get it again")
def msgpack_nested_more_deeply(folder: Path) -> Path:
    return msgpack(folder, b"\x81\xa1a" * 100_000 + b"\x01")


@refused("norm.weight declares the shape (1099511627776, 8) of float32, and has 32 bytes")
def msgpack_shape_huge(folder: Path) -> Path:
    return msgpack(folder, {"norm.weight": extension((2**40, 8), "float32", bytes(32))})


@refused("norm.weight declares the shape (-1, 8) of float32, and has 32 bytes")
def msgpack_shape_negative(folder: Path) -> Path:
    return msgpack(folder, {"norm.weight": extension((-1, 8), "float32", bytes(32))})


@refused("norm.weight: an array of dtype object is no tensor")
def msgpack_of_objects(folder: Path) -> Path:
    return msgpack(folder, {"norm.weight": extension((4,), "object", bytes(32))})


@refused("damaged or cut off, get it again")
def msgpack_array_of_text(folder: Path) -> Path:
    return msgpack(folder, {"norm.weight": extension("text", "float32", b"")})


@refused("msgpack without arrays of flax")
def msgpack_of_something_else(folder: Path) -> Path:
    return msgpack(folder, {"users": [1, 2, {"name": "x"}], "more": {"a": msgspec.msgpack.Ext(5, b"abc")}})


@refused("it has two entries of the name params/norm")
def msgpack_with_a_name_twice(folder: Path) -> Path:
    one = extension((1,), "float32", bytes(4))
    return msgpack(folder, {"params/norm": one, "params": {"norm": one}})


@odd
def msgpack_of_flax(folder: Path) -> Path:
    return flax(folder, state())


@odd
def msgpack_in_pieces(folder: Path) -> Path:
    """As flax writes an array of more than a gigabyte."""
    whole = state()["norm.weight"]
    chunks = {str(i): extension((4,), "float32", whole[i * 4 : i * 4 + 4].numpy().tobytes()) for i in (0, 1)}
    pieces = {"__msgpack_chunked_array__": True, "shape": {"0": 8}, "chunks": chunks}
    return flax(folder, state() | {"norm.weight": pieces})


# -- Hugging Face folders, and what training libraries save ----------------------------------------------------------


@odd
def a_model_beside_others(folder: Path) -> Path:
    path = hugging_face(folder, state(), {"architecture": "vit_tiny_patch16_224"})
    touched(
        path,
        "pytorch_model.bin",
        "optimizer.pt",
        "zero_to_fp32.py",
        "global_step7/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    )
    return path


@odd
def a_configuration_nested_deeply(folder: Path) -> Path:
    path = hugging_face(folder, state())
    (path / "config.json").write_bytes(b'{"a":' * 100_000)
    return path


@odd
def shards_by_their_folder(folder: Path) -> Path:
    return shards(folder, state()).parent


@odd
def shards_of_torch_by_their_index(folder: Path) -> Path:
    return shards(folder, state(), "pth")


@odd
def the_one_shard_of_one(folder: Path) -> Path:
    save_file(state(), folder / "model-00001-of-00001.safetensors")
    return folder


@odd
def lightning(folder: Path) -> Path:
    beside = {"epoch": 3, "global_step": 9, "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "optimizer_states": []}
    path = saved(folder, {"state_dict": state(), "pytorch-lightning_version": "2.4.0"} | beside)
    return path.rename(folder / "epoch=3-step=9.ckpt")


@odd
def deepspeed_without_zero(folder: Path) -> Path:
    path = saved(folder, {"module": state(), "ds_config": {"zero_optimization": {"stage": 0}}, "ds_version": "0.15.0"})
    path.rename(folder / "mp_rank_00_model_states.pt")
    return folder
