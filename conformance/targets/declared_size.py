"""The input size that a caller declares for a checkpoint, and how it is declared to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from packaging.version import Version

from ..cases.case import Case, Geometry, Size
from ..drawing.catalogue import catalogue
from ..families import Family

if TYPE_CHECKING:
    from torch import nn


def declared_size(family: Family, case: Case, geometry: Geometry) -> Size | None:
    """Input size ``(height, width)`` that the caller of ``case`` declares for a checkpoint of ``geometry``.

    It is the true size, None, or the registered model's, as ``case.declared`` says.
    """
    if case.declared == "true":
        return family.img_size(case.arch, geometry)
    if case.declared == "absent":
        return None
    return default_size(case)


def default_size(case: Case) -> Size:
    """Input size ``(height, width)`` in the registered model's own configuration."""
    model = catalogue().get(case.model_name)
    return model.input_size if model else (224, 224)


def declare(model: nn.Module, case: Case, size: Size | None, release: Version | None) -> None:
    """Declare to a model the input size of the checkpoint it is to load; None removes an earlier declaration.

    The declaration is ``pretrained_cfg["input_size"]``. timm 1.0.31 reads the arguments that a model was saved with first
    (``timm/models/_input.py: get_pretrained_grid_size``). So every second true declaration is made there.
    """
    for name in ("pretrained_cfg", "pretrained_model_args"):
        model.__dict__.pop(name, None)
    if size is None:
        return
    told: Any = model
    channels = case.arch.get("in_chans", 3)
    if case.declared == "true" and case.contents.seed % 2 and release is not None and release >= Version("1.0.31"):
        told.pretrained_model_args = {"img_size": size[0] if size[0] == size[1] else size}
        size = default_size(case)
    told.pretrained_cfg = {"input_size": (channels, *size)}
