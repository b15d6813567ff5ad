"""Files that are nearly checkpoints, witnesses or results: bytes, headers, archive members or JSON values are changed."""

from __future__ import annotations

import io
import json
import re
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from tests.container_folders import distributed, packed, shards
from timm_conformance.cases.case import Case
from timm_conformance.checkpoints import files, wrappers
from timm_conformance.ledger.entries import DEFAULT_LEDGER
from timm_conformance.ledger.witnesses import WITNESSES

from .states import Pool, is_dense, mutated, tensors_of

Draw = st.DrawFn
_WITNESSES = sorted((DEFAULT_LEDGER.parent / WITNESSES).glob("*.json"))
_NUMBERS = (0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_DEEP = "nested deeply"
_JSON = st.sampled_from(
    [_DEEP, None, True, -1, 0, 1.5, 2**70, 1e999, "", "F32", [], {}, [[]], [0, 4], [2**40, 2**40], [-1]]
)
_RESULTS = (
    b'{"type":"header","target":"reference","timm":"1","python":"3","torch":"2","platform":"p","device":"cpu","shims":[],'
    b'"profile":"gate","seed":0,"families":["deit3"],"invariants":{"strict-load":[]}}\n'
    b'{"type":"verdict","target":"reference","family":"deit3","invariant":"strict-load","verdict":"pass","cases":{"pass":3}}\n'
    b'{"type":"footer","seconds":1.0}\n'
)


@dataclass(frozen=True)
class Input:
    """A file by its name, and the case whose model it is meant for. ``others`` lie beside a file of a folder, by name."""

    name: str
    content: bytes
    case: Case
    others: Mapping[str, bytes] = field(default_factory=dict)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis makes of every input that fails: not its bytes."""
        printer.text(f"{len(self.content)} bytes in {self.name} for {self.case.describe()}")

    def write(self, folder: Path) -> None:
        """The file, or the folder that it is in, and beside it its case."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CASE).write_text(self.case.to_json())
        for name, content in {self.name: self.content, **self.others}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


def stored(folder: Path) -> tuple[Path, Case]:
    """The file or folder that :meth:`Input.write` left in a folder, and its case."""
    (path,) = (p for p in folder.iterdir() if p.name not in (_CASE, OUTCOME))
    return path, Case.from_json((folder / _CASE).read_bytes())


# Beside the file of a finding: the case whose model it is meant for, and what happened.
_CASE = "meant-for.json"
OUTCOME = "outcome.txt"


@st.composite
def inputs(draw: Draw, pool: Pool) -> Input:
    """A file of any kind, made for one case and changed as tensors, as what its container holds, as bytes, or not at all."""
    case = draw(st.sampled_from(pool.cases), label="case")
    kind = draw(st.sampled_from(["checkpoint"] * 8 + ["folder", "witness", "case", "results"]), label="kind")
    if kind == "checkpoint":
        return draw(checkpoint_files(case, pool))
    if kind == "folder":
        return draw(checkpoint_folders(case))
    text = {
        "witness": lambda: draw(st.sampled_from(_WITNESSES)).read_bytes(),
        "case": lambda: case.to_json().encode(),
        "results": lambda: _RESULTS,
    }[kind]()
    if draw(st.booleans(), label="as JSON"):
        lines = text.splitlines() if kind == "results" else [text]
        text = b"\n".join([draw(_changed_json(line)) for line in lines])
    if draw(st.booleans(), label="as bytes"):
        text = draw(_changed_bytes(text))
    name = {"witness": "witness.json", "case": "case.json", "results": "results.ndjson"}[kind]
    return Input(name, text, case)


@st.composite
def checkpoint_files(draw: Draw, case: Case, pool: Pool) -> Input:
    """A checkpoint file of a case."""
    container = draw(st.sampled_from(["pth", "pth", "safetensors", "npz", "pt", "msgpack"]), label="container")
    inside = draw(st.booleans(), label="change tensors")
    try:
        content = draw(mutated(case, pool)) if inside else wrappers.wrap(tensors_of(case, False), case.wrapper)
        file = _packed(content, container)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # torch or the container cannot hold it
        hypothesis.reject()
    if not inside or draw(st.integers(0, 3)) == 3:
        for _ in range(draw(st.integers(1, 3), label="changes to the file")):
            file = draw(_changed_file(file, container))
    return Input(f"checkpoint.{container}", file, case)


def _packed(content: dict[Any, Any], container: str) -> bytes:
    """The file of a container; what only ``torch.save`` can hold is left out of the others."""
    buffer = io.BytesIO()
    if container in ("pth", "pt"):
        torch.save(content, buffer, _use_new_zipfile_serialization=container == "pth")
        return buffer.getvalue()
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and is_dense(v) and v.nbytes < 2**24}
    tensors = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    if container == "msgpack":
        named = {k: v for k, v in tensors.items() if "float8" not in str(v.dtype)}
        return msgspec.msgpack.encode(packed({"params": named, "step": 3}))
    if container == "safetensors":
        return save({k: v for k, v in tensors.items() if k.isprintable() and not v.is_complex()})
    kept = {k: v for k, v in tensors.items() if v.itemsize > 1 and "\0" not in k and k.isprintable() and k}
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, tensor in kept.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, files.to_numpy(tensor))
            archive.writestr(f"{name}.npy", member.getvalue())
    return buffer.getvalue()


@st.composite
def checkpoint_folders(draw: Draw, case: Case) -> Input:
    """A folder of a case, of torch.distributed.checkpoint or of shards, one file of which is changed."""
    state = {k: v.contiguous() for k, v in tensors_of(case, False).items()}
    with tempfile.TemporaryDirectory(prefix="timm-conformance-fuzz-") as name:
        folder = Path(name)
        if draw(st.booleans(), label="distributed"):
            distributed(folder, {"model": state, "epoch": 3})
        else:
            shards(folder, {k: v.clone() for k, v in state.items()})
        found = {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
    changed = draw(st.sampled_from(sorted(found)), label="changed file")
    content = found.pop(changed)
    if changed.endswith(".json"):
        content = draw(_changed_json(content))
    if not changed.endswith(".json") or draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3), label="changes to the file")):
            content = draw(_changed_bytes(content))
    return Input(changed, content, case, found)


@st.composite
def _changed_file(draw: Draw, file: bytes, container: str) -> bytes:
    how = draw(st.sampled_from(["bytes", "structure", "structure"]), label="where")
    if how == "structure" and container == "safetensors" and len(file) > 8:
        return draw(_changed_safetensors(file))
    if how == "structure" and file.startswith(b"PK"):
        return draw(_changed_archive(file))
    return draw(_changed_bytes(file))


@st.composite
def _changed_bytes(draw: Draw, content: bytes) -> bytes:
    """Some bytes flipped, cut, moved, or a number in them replaced."""
    if not content:
        return content
    how = draw(st.sampled_from(["flip", "cut", "splice", "number", "digits", "digits"]), label="change")
    at = draw(st.integers(0, len(content) - 1), label="at")
    if how == "flip":
        return content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
    if how == "cut":
        return content[:at] if draw(st.booleans()) else content[at:]
    if how == "splice":
        start = draw(st.integers(0, len(content) - 1))
        piece = content[start : start + draw(st.integers(0, 200))]
        return content[:at] + piece + content[at + draw(st.integers(0, 200)) :]
    number = draw(st.sampled_from(_NUMBERS))
    if how == "number":
        packed = struct.pack("<Q", number)[: draw(st.sampled_from([1, 2, 4, 8]))]
        return content[:at] + packed + content[at + len(packed) :]
    runs = [m.span() for m in re.finditer(rb"\d+", content)][:500]
    if not runs:
        return content
    first, last = draw(st.sampled_from(runs))
    same_length = draw(st.booleans())
    text = str(number).encode()[: last - first].ljust(last - first, b"9") if same_length else str(number).encode()
    return content[:first] + text + content[last:]


@st.composite
def _changed_safetensors(draw: Draw, file: bytes) -> bytes:
    """Another header, with the length it has or another."""
    size = struct.unpack("<Q", file[:8])[0]
    header, data = draw(_changed_json(file[8 : 8 + size])), file[8 + size :]
    if draw(st.integers(0, 4)) == 4:
        header = draw(_changed_bytes(header))
    length = draw(st.sampled_from([len(header)] * 4 + list(_NUMBERS)))
    return struct.pack("<Q", length) + header + data


@st.composite
def _changed_archive(draw: Draw, file: bytes) -> bytes:
    """One member dropped, doubled, renamed, emptied, or changed with a checksum that is right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            members = [(m.filename, archive.read(m)) for m in archive.infolist()]
    except Exception:  # an earlier change
        return file
    if not members:
        return file
    pickles = [i for i, (name, _) in enumerate(members) if name.endswith("data.pkl")]
    at = draw(st.sampled_from([*pickles * len(members), *range(len(members))]), label="member")
    name, content = members[at]
    how = draw(st.sampled_from(["change"] * 4 + ["drop", "double", "rename", "empty", "swap"]), label="change")
    other = draw(st.sampled_from(members))
    changed = {
        "change": lambda: [(name, draw(_changed_bytes(content)))],
        "drop": list,
        "double": lambda: [(name, content), (name, other[1])],
        "rename": lambda: [(draw(st.sampled_from([other[0], "x.npy", "archive/constants.pkl", "../x"])), content)],
        "empty": lambda: [(name, b"")],
        "swap": lambda: [(name, other[1])],
    }[how]()
    members[at : at + 1] = changed
    packed = draw(st.sampled_from([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, packed)
    return buffer.getvalue()


@st.composite
def _changed_json(draw: Draw, text: bytes) -> bytes:
    """JSON with one part of it replaced, dropped, renamed or nested; text that is none, after an earlier change, as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    deep = "[" * 5000 + "]" * 5000  # deeper than Python's own writer goes
    return json.dumps(draw(_changed_value(value))).replace(f'"{_DEEP}"', deep).encode()


@st.composite
def _changed_value(draw: Draw, value: Any) -> Any:
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 4)) < 4:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        changed = dict(value) if isinstance(value, dict) else list(value)
        how = draw(st.sampled_from(["deeper"] * 6 + ["drop", "rename"]))
        if how == "deeper":
            changed[key] = draw(_changed_value(value[key]))
        else:
            kept = changed.pop(key)
            if how == "rename" and isinstance(changed, dict):
                changed[draw(st.sampled_from(["", "type", "schema", "case", str(key) + "x"]))] = kept
        return changed
    return draw(_JSON)
