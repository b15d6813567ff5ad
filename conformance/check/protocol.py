"""The request to the check worker and its answer, as values that convert to JSON and back."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..cases.case import Geometry, Size
from ..targets.target import MODEL_RELEASE


class Request(msgspec.Struct, frozen=True):
    """One check. Sizes are ``(height, width)`` in pixels. A field that is None takes the model's or the checkpoint's value.

    ``options`` are further arguments of ``create_model``. ``entry`` and ``prefix`` say where in the file the model's tensors lie.
    """

    path: str
    model: str
    target: str = f"timm=={MODEL_RELEASE}"
    patch_size: Size | None = None
    img_size: Size | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    options: dict[str, Any] = {}
    input_size: Size | None = None
    entry: str | None = None
    prefix: str | None = None
    fix: str | None = None
    ledger: str | None = None


class Difference(msgspec.Struct, frozen=True):
    """Tensors of the same name in all blocks that differ in the same way, and the ledger's entries that explain it.

    ``fraction`` is the largest error as a fraction of its bound; None if the bound is 0 or no values were compared.
    """

    kind: str
    tensor: str
    count: int
    text: str
    fraction: float | None = None
    entries: list[str] = []


class Forward(msgspec.Struct, frozen=True):
    """The comparison of the model's output with the upstream model's.

    ``taken`` are hyperparameters that no tensor holds. They were read from the model, so they were not compared.
    """

    verdict: Literal["same", "differs", "not compared"]
    text: str
    fraction: float | None = None
    taken: dict[str, Any] = {}
    entries: list[str] = []


class Answer(msgspec.Struct, kw_only=True):
    """The result of a check.

    unusable     why nothing could be checked: the file cannot be read, or the model does not exist
    container    the kind of file or folder
    read         what was read of a folder, what else it is, and what was left out; one line each
    opened       which entry of the file was read, and the prefix of its names; empty for a plain dict of tensors
    beside       what else the file holds, one line each
    format       the reference's name of the checkpoint's format, ``evidence`` the keys that show it
    families     families of the suite to which the checkpoint may belong, the likeliest first
    source       patch and grid of the checkpoint; ``destination`` those of the model
    stride       image pixels for each pixel of the patch kernel, ``(height, width)``
    windows      windows of relative positions of checkpoint and model, if they differ from the grid
    classes      numbers of classes of checkpoint and model; ``in_chans`` those of input channels
    refused      why the reference cannot use the checkpoint, empty if it can
    causes       single causes of a refusal, or of what had to be undone, as the tensors show them, one line each
    notes        what was guessed, or is told by something else than tensors, one line each
    unread       why the target reads nothing of the file as it stands; then it was given the tensors that lie there
    call         Python lines that load the checkpoint as the target was made to; ``not_by`` other calls, and why they do not
    given        what the target was given, if not the file that was named
    loaded       whether the target loads the checkpoint; ``error`` is the target's message if it does not
    tensors      number of tensors that were compared; ``fraction`` is the largest error as a fraction of its bound
    known        the ledger's entries that explain the differences, one line each
    advice       what the user can do, one line each
    fixed        path of the file that ``--fix`` wrote
    """

    target: str
    model: str
    unusable: str = ""
    container: str = ""
    read: list[str] = []
    opened: str = ""
    beside: list[str] = []
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
    causes: list[str] = []
    notes: list[str] = []
    unread: str = ""
    call: list[str] = []
    not_by: list[str] = []
    given: str = ""
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
