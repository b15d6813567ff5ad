"""The registered timm models, with the patch and image sizes real checkpoints come in.

A snapshot (``models.json``), so that the cases drawn do not depend on the target under test. Refresh it from a newer
release with ``python -m timm_conformance.targets.registry timm==X.Y.Z``; a test compares it with the newest release.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path

import msgspec

from ..cases.case import Geometry, Size
from ..families import Family

PATH = Path(__file__).with_name("models.json")


class RealModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One registered model: name with tag, module, default input size ``(height, width)``, and what it cuts that into.

    ``patch_size`` is its patch kernel's, ``(1, 1)`` without one; ``stride`` is that of the stem before it, 1 without.
    """

    name: str
    module: str
    patch_size: Size
    input_size: Size
    stride: int = 1

    @property
    def geometry(self) -> Geometry:
        """The geometry its published checkpoint has."""
        h, w = (n // (p * self.stride) for n, p in zip(self.input_size, self.patch_size))
        return Geometry(self.patch_size, (h, w))


@lru_cache(maxsize=1)
def catalogue() -> dict[str, RealModel]:
    """Every model of the snapshot, by name."""
    models = msgspec.json.decode(PATH.read_bytes(), type=list[RealModel])
    return {m.name: m for m in models}


@cache
def _matching(module: str, globs: tuple[str, ...], but: tuple[str, ...]) -> tuple[RealModel, ...]:
    return tuple(
        m
        for m in catalogue().values()
        if m.module == module
        and any(fnmatchcase(m.name, g) for g in globs)
        and not any(fnmatchcase(m.name, g) for g in but)
    )


def models_of(family: Family) -> tuple[RealModel, ...]:
    """The registered models whose upstream checkpoints are of ``family``."""
    return _matching(family.models_module or family.module, family.models, family.not_models)
