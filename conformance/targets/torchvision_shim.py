"""Let timm import where torchvision has no compiled half.

torchvision's PyPI wheel is built against CUDA torch; with a CPU torch its import dies because the operators
``torchvision::nms`` and ``torchvision::qnms`` were never declared. Declaring their schemas is enough for timm, whose
loaders call no torchvision operator. Reports name the shim when it is in use.
"""

from __future__ import annotations

import importlib
import importlib.util

NAME = "torchvision-operators"

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None


def install() -> bool:
    """Declare the missing operators if torchvision needs them; True when the shim is in use.

    Must run before the first import of torchvision: a failed import of it cannot be repeated in one process.
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
    importlib.import_module("torchvision")
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
