"""The calls by which a checkpoint is loaded, as code to copy, and what other calls come to.

The answer of a check is about a call: it prints the one that was made. timm has others that users try first. They are tried
as well, and the answer says of each that does not give the same model why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from zlib import crc32

import torch

from ..errors import one_line
from ..reference import Opened
from .explaining.left_out import LeftOut
from .handing import text, unread_container
from .loading import Checkpoint, Loaded, RequestedModel, captured_load, memory_saving
from .taking_out import TakenOut

_SHORT = 200
# Shape, dtype and checksum of a tensor.
Digest = tuple[tuple[int, ...], torch.dtype, int | None]


def code(
    wanted: RequestedModel,
    checkpoint: Checkpoint,
    taken_out: TakenOut | None,
    loaded: Loaded,
    reading: list[str],
) -> list[str]:
    """Python lines that load a checkpoint by timm as it was ``loaded``, with those that take its tensors out by hand, if any.

    ``reading`` are the lines that read a container which timm does not read. Where there are none for it, there is no
    call either: one file of its tensors has to be written first.
    """
    located = checkpoint.located
    path = text(str(located.path))
    arguments = "".join(f", {k}={v!r}" for k, v in wanted.arguments().items())
    if loaded.by_folder:
        name = text(f"local-dir:{located.named}")
        return [f"model = timm.create_model({name}, pretrained=True{arguments})"]
    if unread_container(located) and not reading:
        return []
    if located.file_kind == "npz":
        return [f'model = timm.create_model("{wanted.model}"{arguments})', f"model.load_pretrained({path})"]
    lines, source = reading, "state_dict=content" if reading else f"file={path}"
    if taken_out is not None:
        lines, source = taken_out.code(checkpoint, reading), "state_dict=state"
    overlay = ", ".join(f"{k}={v!r}" for k, v in checkpoint.overlay.items())
    create = f'timm.create_model("{wanted.model}", pretrained=True{arguments}'
    return [*lines, f"model = {create}, pretrained_cfg_overlay=dict({source}, {overlay}))"]


def others(wanted: RequestedModel, checkpoint: Checkpoint, loaded: Mapping[str, Digest]) -> Iterator[tuple[str, str]]:
    """Other calls of ``create_model`` for a file, each with why it does not give the same model; empty if it does.

    ``loaded`` are the digests of that model's tensors (:func:`digests`), so that only one model is in memory at a time.
    """
    import timm

    if unread_container(checkpoint.located) or checkpoint.located.file_kind == "npz":
        return
    path = str(checkpoint.located.path)
    overlay = {k: v for k, v in checkpoint.overlay.items() if k != "custom_load"} | {"file": path}
    ways: dict[str, Callable[[], Any]] = {
        "checkpoint_path=, which converts nothing": lambda: timm.create_model(
            wanted.model, checkpoint_path=path, **wanted.arguments()
        ),
        "pretrained_cfg_overlay without custom_load=False": lambda: timm.create_model(
            wanted.model, pretrained=True, pretrained_cfg_overlay=overlay, **wanted.arguments()
        ),
    }
    for name, way in ways.items():
        yield name, _outcome(wanted, way, loaded)


def _outcome(wanted: RequestedModel, way: Callable[[], Any], loaded: Mapping[str, Digest]) -> str:
    """Why a call does not give the model of these digests; empty if it does."""
    try:
        with memory_saving(wanted.model), captured_load(Loaded()):
            model = way()
    except Exception as error:
        return f"{type(error).__name__}: {_short(str(error))}"
    got = digests(model.state_dict())
    other = [name for name in loaded if got.get(name) != loaded[name]]
    return f"loads other tensors, such as {other[0]}" if other else ""


def digests(state: Mapping[str, torch.Tensor]) -> dict[str, Digest]:
    """Shape, dtype and CRC-32 of the bytes of each tensor; of one on the meta device, which has none, the first two."""
    return {name: (tuple(t.shape), t.dtype, None if t.is_meta else _crc(t)) for name, t in state.items()}


def _crc(tensor: torch.Tensor) -> int:
    return crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _short(message: str) -> str:
    """The beginning of an exception's message, without what every failed load begins with."""
    said = one_line(re.sub(r"^Error\(s\) in loading state_dict for \w+:", "", message.strip()))
    return said if len(said) <= _SHORT else f"{said[:_SHORT]}..."


def unread(
    target: str, loaded: Loaded, opened: Opened, left_out: LeftOut, numpy: str, expected: Mapping[str, object]
) -> str:
    """That a target reads nothing of a file as it stands, or not all of it, in words.

    ``left_out`` and ``numpy`` are as in :class:`.opening.Opening`; ``expected`` are the names of the model's tensors.
    """
    where = opened.where or "at names of blocks in chunks"
    count = len(loaded.state_dict.keys() & expected.keys())
    finds = f"it finds {count or 'none'} of the {len(expected)} tensors that it asks for"
    if not count and numpy and loaded.failure is not None:
        found = f"{target} does not read {numpy} of numpy, as torch.load(weights_only=True) does not"
    elif not count:
        found = f"{target} does not look {where}: {finds}"
    elif left_out.wrappers:
        found = f"{target} does not take {' and '.join(left_out.wrappers)} out of names: {finds}"
    else:
        found = f"{target} does not leave out {', '.join(left_out.counters)}, which its model has not"
    if loaded.failure is None:
        return f"{found}, and makes the model all the same, with a line in the log at most"
    return f"{found}, and refuses the file as it stands"
