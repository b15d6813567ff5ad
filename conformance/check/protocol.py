"""What is asked of the worker, and what it answers: plain values, JSON both ways."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..cases.case import Geometry, Size
from ..targets.target import MODEL_RELEASE


class Request(msgspec.Struct, frozen=True):
    """One check. Sizes are ``(height, width)`` in pixels; what is None is left to the model or the checkpoint."""

    path: str
    model: str
    target: str = f"timm=={MODEL_RELEASE}"
    patch_size: Size | None = None
    img_size: Size | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    input_size: Size | None = None
    fix: str | None = None
    ledger: str | None = None


class Difference(msgspec.Struct, frozen=True):
    """Tensors of one name but for their block that differ in the same way, and the ledger's entries that explain it.

    ``fraction`` is the largest error as a fraction of its bound, None where nothing may differ at all, or was compared.
    """

    kind: str
    tensor: str
    count: int
    text: str
    fraction: float | None = None
    entries: list[str] = []


class Forward(msgspec.Struct, frozen=True):
    """The model's output beside the upstream model's. ``taken`` is what no tensor says and the model was asked for."""

    verdict: Literal["agrees", "differs", "not compared"]
    text: str
    fraction: float | None = None
    taken: dict[str, Any] = {}
    entries: list[str] = []


class Answer(msgspec.Struct, kw_only=True):
    """What became of a check.

    unusable     why nothing could be checked: the file cannot be read, or there is no such model
    container    the kind of file
    format       the reference's name of the checkpoint's format, ``evidence`` the keys that show it
    families     families of the suite it may be of, the likeliest first
    source       patch and grid of the checkpoint, ``destination`` of the model; ``stride`` is what a pixel of the kernel stands
                 for, ``windows`` those of relative positions where they are not the grid, ``classes`` and ``in_chans`` how
                 many there are, each of the checkpoint and of the model
    refused      why the checkpoint cannot be used, empty where the reference loads it
    loaded       whether the target loads it; ``error`` is what the target said where it does not
    tensors      how many tensors were compared, ``fraction`` the worst error within its bound
    known        the ledger's entries behind what was found, in words
    advice       what a user can do, a line each
    fixed        the file written
    """

    target: str
    model: str
    unusable: str = ""
    container: str = ""
    format: str = ""
    evidence: list[str] = []
    families: list[str] = []
    source: Geometry | None = None
    destination: Geometry | None = None
    stride: Size = (1, 1)
    windows: tuple[Size, Size] | None = None
    classes: tuple[int, int] = (0, 0)
    in_chans: tuple[int, int] = (3, 3)
    refused: str = ""
    loaded: bool = False
    error: str = ""
    tensors: int = 0
    fraction: float = 0.0
    differences: list[Difference] = []
    forward: Forward | None = None
    known: list[str] = []
    advice: list[str] = []
    fixed: str = ""
    exit_code: int = 0
