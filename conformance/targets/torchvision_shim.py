"""A shim with which timm can be imported although torchvision's compiled part cannot be loaded.

torchvision's PyPI wheel is built against CUDA torch. With a CPU torch its import fails, because the operators
``torchvision::nms`` and ``torchvision::qnms`` are not declared. Declaring their schemas is enough for timm, whose loaders
call no torchvision operator. Reports name the shim when it is in use.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING

from ..errors import UserError, one_line

if TYPE_CHECKING:
    from torch.library import Library

NAME = "torchvision-operators"
SEEN = ("0.28.0",)  # the versions that need no other operator

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Library | None = None


def install() -> bool:
    """Declare the missing operators if torchvision needs them; return whether the shim is in use.

    Call it before the first import of torchvision: a process cannot repeat a failed import of torchvision.
    Raises :class:`UserError`, one line, if torchvision cannot be imported with it either.
    """
    global _library
    if _library is not None:
        return True
    import torch

    if importlib.util.find_spec("torchvision") is None or _compiled_half_loads():
        return False
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"torchvision {importlib.metadata.version('torchvision')} cannot be imported with torch {torch.__version__}: "
            f"{one_line(error)}; install the torchvision built for this torch (without one, {SEEN[-1]} works)"
        ) from None
    return True


def _compiled_half_loads() -> bool:
    """Whether torchvision's operator library can be loaded beside this torch."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    from pathlib import Path

    libraries = [p for d in spec.submodule_search_locations for p in Path(d).glob("_C*.so")]
    libraries += [p for d in spec.submodule_search_locations for p in Path(d).glob("_C*.pyd")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return bool(libraries)
