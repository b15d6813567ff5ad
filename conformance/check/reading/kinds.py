"""Tells what a file is by its content: a container of tensors that is read, or something else, with what to do about it."""

from __future__ import annotations

from pathlib import Path

from .archives import ZIP, archive_at
from .limits import SAVE_AGAIN, refused, start_of

_PICKLE = b"\x80"
_TORCH_PICKLE = bytes.fromhex("6cfc9c46f9206aa85019")
# Files that are no checkpoints, by their first bytes in lower case: what they are, and what to do.
_OTHERS = {
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file it points to with git lfs pull"),
    b"<!doctype": ("an HTML page", "download the file itself"),
    b"<html": ("an HTML page", "download the file itself"),
    b"<?xml": ("an XML page", "download the file itself"),
    b"{": ("a JSON file", "a configuration perhaps; name its folder, or the file that holds the tensors"),
    b"\x93numpy": ("a single array of NumPy", "name a .npz file with all of them"),
    b"\x89hdf": (
        "an HDF5 file",
        "Keras writes these: load it there, and save model.state_dict() or the arrays of its weights as .safetensors",
    ),
    b"gguf": (
        "a GGUF file",
        "its tensors are renamed and mostly quantised for llama.cpp; name the checkpoint it was converted from",
    ),
    b"\x1f\x8b": ("compressed with gzip", "unpack it"),
    b"\xfd7zxz": ("compressed with xz", "unpack it"),
    b"(\xb5/\xfd": ("compressed with zstd", "unpack it"),
}
# The fields of an ONNX model by number, with their protobuf wire types (0: a number, 2: bytes).
# Source: onnx/onnx onnx/onnx.proto, ModelProto.
_ONNX = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_ONNX_GRAPH = 7


def kind_of(path: Path) -> str:
    """The container of a file: ``safetensors``, ``pth``, ``npz`` or ``msgpack``.

    Raises :class:`UserError` for a file that cannot be read or is none of these.
    """
    start = start_of(path)
    if start.startswith(ZIP):
        return _kind_of_archive(path)
    if start[8:9] == b"{" and b"\0" in start[:8]:  # the header's length, then the header
        return "safetensors"
    if start.startswith(_PICKLE):
        if _TORCH_PICKLE in start:
            return "pth"
        arrays = ", after torch.as_tensor of its numpy arrays" if _holds_arrays(path) else ""
        raise refused(
            path,
            f"a pickle that torch.save did not write, which only running its code would read; {SAVE_AGAIN}{arrays}",
        )
    if _is_map_of_msgpack(start):
        return "msgpack"
    for magic, (what, remedy) in _OTHERS.items():
        if start.lower().lstrip().startswith(magic):
            raise refused(path, f"this is {what}, not a checkpoint; {remedy}")
    if _is_onnx(path):
        raise refused(
            path,
            "an ONNX model, a graph whose tensors have lost the names of their modules; "
            "name the checkpoint that it was exported from",
        )
    raise refused(path, "neither a .safetensors file nor one of torch.save, numpy.savez or flax; is it whole?")


def _holds_arrays(path: Path) -> bool:
    """Whether a pickle names the arrays of numpy, at its beginning."""
    with path.open("rb") as file:
        return b"numpy" in file.read(2**16)


def _kind_of_archive(path: Path) -> str:
    with archive_at(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "pth"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise refused(path, "a zip archive without tensors; unpack it and name the checkpoint inside")


def _is_map_of_msgpack(start: bytes) -> bool:
    """Whether a file begins with a map of msgpack that has entries, and the first key is text."""
    header = {0xDE: 3, 0xDF: 5}.get(start[0], 1 if 0x81 <= start[0] <= 0x8F else 0)
    key = start[header : header + 1]
    return bool(header and key and (0xA0 <= key[0] <= 0xBF or 0xD9 <= key[0] <= 0xDB))


def _is_onnx(path: Path) -> bool:
    """Whether a file is a row of an ONNX model's fields from its first byte to its last, with a graph among them."""
    fields, at, size = set(), 0, path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(20)
            tag, used = _varint(head)
            value, more = _varint(head[used:])
            field, wire = tag >> 3, tag & 7
            if not (used and more and _ONNX.get(field) == wire):
                return False
            at += used + more + (value if wire else 0)
            fields.add(field)
    return at == size and _ONNX_GRAPH in fields


def _varint(content: bytes) -> tuple[int, int]:
    """A number of protobuf and how many bytes it takes: none where there is no number of at most 64 bits."""
    number = 0
    for n, byte in enumerate(content[:10]):
        number |= (byte & 0x7F) << (7 * n)
        if byte < 0x80:
            return number, n + 1
    return 0, 0
