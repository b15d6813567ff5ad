"""Checkpoint files that are broken, hostile or no checkpoints: how each is made, and what is to be said of it.

``HOSTILE`` holds what has to be refused, by name: a function that writes the file into a folder and returns its path, and
the words the one line of refusal must have. ``ODD`` holds what looks as strange and is to be read. Files that are whole and
hold no weights are in :mod:`tests.hostile_tensors`, and folders in :mod:`tests.hostile_folders`, which completes both.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.small_vit import GEOMETRY, image_encoder

Writer = Callable[[Path], Path]
HOSTILE: dict[str, tuple[Writer, str]] = {}
ODD: dict[str, Writer] = {}
KERNEL = "patch_embed.proj.weight"


def state() -> dict[str, Tensor]:
    """The tensors of a checkpoint that is whole, in timm's layout."""
    return image_encoder(GEOMETRY)[0]


def refused(words: str) -> Callable[[Writer], Writer]:
    """Register a file that has to be refused in these words."""

    def register(writer: Writer) -> Writer:
        HOSTILE[writer.__name__] = writer, words
        return writer

    return register


def odd(writer: Writer) -> Writer:
    """Register a file that has to be read."""
    ODD[writer.__name__] = writer
    return writer


def saved(folder: Path, content: Any, **options: Any) -> Path:
    """A .pth file of ``content``."""
    torch.save(content, folder / "checkpoint.pth", **options)
    return folder / "checkpoint.pth"


def written(folder: Path, content: bytes, suffix: str) -> Path:
    """A file of these bytes."""
    path = folder / f"checkpoint.{suffix}"
    path.write_bytes(content)
    return path


def changed(**tensors: Any) -> dict[str, Any]:
    """The whole checkpoint with its first weights replaced: ``kernel``, ``norm`` or ``pos_embed``."""
    names = {"kernel": KERNEL, "norm": "norm.weight", "pos_embed": "pos_embed"}
    return state() | {names[k]: v for k, v in tensors.items()}


class Call:
    """Pickles to the call of a function, whose result is given attributes and items."""

    def __init__(self, function: Callable, *arguments: Any, attributes: Any = None, items: Any = ()) -> None:
        self.how = function, arguments, attributes, None, iter(dict(items).items()) if items else None

    def __reduce__(self) -> tuple:
        return self.how


# -- no checkpoint at all --------------------------------------------------------------------------------------------


@refused("No such file or directory")
def missing(folder: Path) -> Path:
    return folder / "checkpoint.pth"


@refused("this is a folder without a checkpoint; name the file or the folder that holds the tensors")
def a_folder(folder: Path) -> Path:
    return folder


@refused("no regular file")
def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


@refused("the file is empty")
def empty(folder: Path) -> Path:
    return written(folder, b"", "safetensors")


@refused("this is a Git LFS pointer, not a checkpoint; fetch the file it points to with git lfs pull")
def lfs_pointer(folder: Path) -> Path:
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 346284714\n"
    return written(folder, text, "safetensors")


@refused("this is an HTML page, not a checkpoint; download the file itself")
def html_page(folder: Path) -> Path:
    return written(folder, b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "pth")


@refused("get all shards into the folder of the index; missing: model-00001-of-00002.safetensors")
def index_of_shards(folder: Path) -> Path:
    return written(folder, b'{\n  "weight_map": {"head.weight": "model-00001-of-00002.safetensors"}}', "json")


@refused("this is a JSON file, not a checkpoint")
def configuration(folder: Path) -> Path:
    """Its ninth byte is a brace, as that of a .safetensors file."""
    return written(folder, b'{"args":{"lr": 0.1}}', "json")


@refused("neither a .safetensors file nor one of torch.save, numpy.savez or flax")
def noise(folder: Path) -> Path:
    return written(folder, bytes(range(1, 128)) * 4, "bin")


@refused("a zip archive without tensors")
def zip_of_text(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "checkpoint.pth", "w") as archive:
        archive.writestr("README", "weights are elsewhere")
    return folder / "checkpoint.pth"


# -- .safetensors ----------------------------------------------------------------------------------------------------


def safetensors(folder: Path, header: bytes | None = None, length: int | None = None, cut: int = 0, **fields: Any):
    """A .safetensors file whose header is replaced, whose length is another, which is cut off, or whose first tensor's
    ``fields`` differ."""
    path = folder / "checkpoint.safetensors"
    save_file(state(), path)
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    entries, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    first = next(k for k, v in entries.items() if v.get("data_offsets", [1])[0] == 0)
    entries[first] |= fields
    header = json.dumps(entries).encode() if header is None else header
    content = struct.pack("<Q", len(header) if length is None else length) + header + data
    return written(folder, content[: len(content) - cut], "safetensors")


def _damaged_safetensors(name: str, **how: Any) -> None:
    HOSTILE[name] = (lambda folder: safetensors(folder, **how)), "damaged or cut off, get it again"


_entry = '{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
for _name, _how in {
    "safetensors_cut_off": {"cut": 100},
    "safetensors_cut_in_its_header": {"cut": 1700},
    "safetensors_header_beyond_the_file": {"length": 10**6},
    "safetensors_header_of_gigabytes": {"length": 2**40},
    "safetensors_header_of_negative_length": {"length": 2**64 - 2**40},
    "safetensors_header_too_short": {"length": 100},
    "safetensors_header_no_json": {"header": b'{"weights": yes}'},
    "safetensors_header_no_text": {"header": b'{"\xff\xfe": 1}'},
    "safetensors_header_nested_deeply": {"header": b'{"a":' * 200_000},
    "safetensors_name_twice": {"header": f'{{"a":{_entry % (0, 4)},"a":{_entry % (4, 8)}}}'.encode()},
    "safetensors_tensors_overlap": {"header": f'{{"a":{_entry % (0, 4)},"b":{_entry % (2, 6)}}}'.encode()},
    "safetensors_offsets_beyond_the_file": {"data_offsets": [0, 2**40]},
    "safetensors_offsets_backwards": {"data_offsets": [8, 4]},
    "safetensors_shape_huge": {"shape": [2**40, 2**40]},
    "safetensors_shape_negative": {"shape": [-1, -32]},
    "safetensors_dtype_unknown": {"dtype": "F33"},
}.items():
    _damaged_safetensors(_name, **_how)


# -- .pth ------------------------------------------------------------------------------------------------------------


@refused("it holds a posix.mkdir, which only running its code would read; if you trust its origin")
def pickle_that_runs_code(folder: Path) -> Path:
    return saved(folder, state() | {"epoch": Call(os.mkdir, str(folder / "executed"))})


@refused("it holds a posix.mkdir, which only running its code would read; if you trust its origin")
def old_pickle_that_runs_code(folder: Path) -> Path:
    content = state() | {"epoch": Call(os.mkdir, str(folder / "executed"))}
    return saved(folder, content, _use_new_zipfile_serialization=False)


@refused("a pickle that torch.save did not write, which only running its code would read")
def plain_pickle_that_runs_code(folder: Path) -> Path:
    return written(folder, pickle.dumps({"epoch": Call(os.mkdir, str(folder / "executed"))}), "pkl")


class Reduced:
    """An object whose pickle makes what it was given."""

    def __init__(self, *made: object) -> None:
        self.made = made

    def __reduce__(self) -> tuple:
        return self.made


@refused("damaged or cut off, get it again (a numpy array has another number of bytes than its shape)")
def numpy_array_that_declares_more(folder: Path) -> Path:
    make, start, (version, _, dtype, order, data) = np.ones(4, np.float32).__reduce__()
    return saved(folder, {"a": Reduced(make, start, (version, (2**40,), dtype, order, data))})


@refused("it holds a numpy array of no numbers (O8), which is not read")
def numpy_array_of_addresses(folder: Path) -> Path:
    make, start, (version, shape, _, order, data) = np.ones(4).__reduce__()
    return saved(folder, {"a": Reduced(make, start, (version, shape, np.dtype(object), order, data))})


@refused("it holds a numpy array of no numbers (U1), which is not read")
def numpy_array_of_text(folder: Path) -> Path:
    return saved(folder, {"a": np.array(["a"])})


@refused(
    "it holds a torch.nn.modules.linear.Linear, which only running its code would read: a whole module was pickled"
)
def module_in_a_dict(folder: Path) -> Path:
    return saved(folder, {"model": nn.Linear(2, 2), "epoch": 3}, _use_new_zipfile_serialization=False)


@refused(
    "it holds a torch.nn.modules.linear.Linear, which only running its code would read: a whole module was pickled"
)
def whole_module(folder: Path) -> Path:
    return saved(folder, nn.Linear(2, 2))


@refused("a TorchScript archive, a program and not only its tensors")
def torchscript(folder: Path) -> Path:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


@refused("a checkpoint is a dict of tensors, this holds a list")
def a_list(folder: Path) -> Path:
    return saved(folder, list(state().values()))


@refused("damaged or cut off, get it again")
def zip_cut_off(folder: Path) -> Path:
    path = saved(folder, state())
    return written(folder, path.read_bytes()[:-400], "pth")


@refused("norm.bias.npy is no array of NumPy, or damaged (Bad CRC-32")
def npz_byte_changed(folder: Path) -> Path:
    path = npz(folder, state())
    return flipped(path, state()["norm.bias"].numpy().tobytes())


@refused("in it is damaged (wrong checksum), get the file again")
def byte_of_a_tensor_changed(folder: Path) -> Path:
    path = saved(folder, state())
    return flipped(path, state()["norm.bias"].numpy().tobytes())


def flipped(path: Path, around: bytes) -> Path:
    """The file with one bit of these bytes changed."""
    content = bytearray(path.read_bytes())
    content[content.index(around) + 1] ^= 1
    path.write_bytes(content)
    return path


@refused("packed again with compression; torch.save stores tensors as they are")
def zip_packed_again(folder: Path) -> Path:
    with zipfile.ZipFile(saved(folder, state())) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    with zipfile.ZipFile(folder / "checkpoint.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "checkpoint.pth"


@refused(r"damaged or cut off, get it again (Unknown endianness type: \x00\x00)")
def byte_order_of_zeros(folder: Path) -> Path:
    with zipfile.ZipFile(saved(folder, state())) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    with zipfile.ZipFile(folder / "checkpoint.pth", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"\0\0" if name.endswith("byteorder") else content)
    return folder / "checkpoint.pth"


@refused("damaged or cut off, get it again")
def old_pickle_cut_off(folder: Path) -> Path:
    path = saved(folder, state(), _use_new_zipfile_serialization=False)
    return written(folder, path.read_bytes()[:-5], "pth")


@refused("its tensors declare 4,398,046,51")
def view_blown_up(folder: Path) -> Path:
    return saved(folder, changed(kernel=torch.zeros(1).expand(2**20, 2**20)))


@refused("its tensors declare")
def views_blown_up_together(folder: Path) -> Path:
    small = torch.zeros(2**10)
    return saved(folder, {"model": {f"blocks.{i}.norm1.weight": small.expand(2**7, 2**10) for i in range(2**10)}})


@refused("its tensors declare")
def tensor_made_by_the_pickle(folder: Path) -> Path:
    return saved(folder, {"model": state(), "more": Call(torch.FloatTensor, 2**26 + 1)})


# -- .npz ------------------------------------------------------------------------------------------------------------


def npz(folder: Path, arrays: dict[str, Any], compress: bool = False) -> Path:
    """A .npz file of tensors, or of members that are bytes already."""
    path = folder / "checkpoint.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            content = value if isinstance(value, bytes) else npy(np.asarray(value))
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray) -> bytes:
    """An array as a member of a .npz file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_header(text: str, data: bytes = b"") -> bytes:
    """A member of a .npz file with this header."""
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def _npy_of_shape(shape: str) -> bytes:
    return npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}", b"\0" * 16)


@refused("its tensors declare")
def npz_bomb(folder: Path) -> Path:
    return npz(folder, {"pos_embed": np.zeros((1, 2**24, 8), "f4")}, compress=True)


@refused("its tensors declare")
def npz_bomb_with_modest_headers(folder: Path) -> Path:
    """The zip members unfold to more than the arrays need."""
    return npz(folder, {f"a{i}": _npy_of_shape("(4,)") + b"\0" * 2**24 for i in range(40)}, compress=True)


@refused("its tensors declare 4,835,703,278,458,516,698,824,704 bytes")
def npz_shape_huge(folder: Path) -> Path:
    return npz(folder, {"pos_embed": _npy_of_shape(f"({2**40}, {2**40})")})


@refused("declares the impossible shape (-1, 4)")
def npz_shape_negative(folder: Path) -> Path:
    return npz(folder, {"pos_embed": _npy_of_shape("(-1, 4)")})


@refused("pos_embed.npy is no array of NumPy, or damaged")
def npz_header_no_literal(folder: Path) -> Path:
    return npz(folder, {"pos_embed": npy_header("__import__('os').getcwd()")})


@refused("pos_embed.npy is no array of NumPy, or damaged")
def npz_header_nested_deeply(folder: Path) -> Path:
    return npz(folder, {"pos_embed": npy_header("-" * 9000 + "1")})


@refused("pos_embed.npy holds pickled objects, which are not read")
def npz_of_objects(folder: Path) -> Path:
    return npz(folder, {"pos_embed": np.array([Call(os.mkdir, str(folder / "executed"))], dtype=object)})


@refused("pos_embed: an array of dtype <U4 is no tensor")
def npz_of_text(folder: Path) -> Path:
    return npz(folder, {"pos_embed": np.array(["text"])})


@refused("damaged or cut off, get it again")
def npz_cut_off(folder: Path) -> Path:
    return written(folder, npz(folder, state()).read_bytes()[:-400], "npz")


@refused("damaged or cut off, get it again")
def npz_array_cut_off(folder: Path) -> Path:
    return npz(folder, {"pos_embed": _npy_of_shape("(8, 8)")})
