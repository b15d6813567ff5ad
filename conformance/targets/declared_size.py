"""What a caller declares of a checkpoint's input size, and how a model is told it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from ..cases.case import Case, Geometry, Size
from ..drawing.catalogue import catalogue
from ..families import Family

if TYPE_CHECKING:
    from torch import nn


def declared_size(family: Family, case: Case, geometry: Geometry) -> Size | None:
    """The input size a caller declares for a checkpoint of ``geometry``: true, none, or the registered model's."""
    if case.declared == "true":
        return family.img_size(case.arch, geometry)
    if case.declared == "absent":
        return None
    return default_size(case)


def default_size(case: Case) -> Size:
    """Input size in the registered model's own configuration."""
    model = catalogue().get(case.model_name)
    return model.input_size if model else (224, 224)


def declare(model: nn.Module, case: Case, size: Size | None, release: Version | None) -> None:
    """Tell a model the input size of the checkpoint it is to load, or nothing, whatever it was told before.

    ``pretrained_cfg["input_size"]`` says so. In timm 1.0.31 the arguments that a model was saved with come before it
    (``timm/models/_input.py: get_pretrained_grid_size``), so every other true declaration is made there.
    """
    for name in ("pretrained_cfg", "pretrained_model_args"):
        model.__dict__.pop(name, None)
    if size is None:
        return
    channels = case.arch.get("in_chans", 3)
    if case.declared == "true" and case.contents.seed % 2 and release is not None and release >= Version("1.0.31"):
        model.pretrained_model_args = {"img_size": size[0] if size[0] == size[1] else size}
        size = default_size(case)
    model.pretrained_cfg = {"input_size": (channels, *size)}
