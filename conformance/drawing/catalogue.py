"""The registered timm models, with the patch and image sizes of real checkpoints.

They are a snapshot (``models.json``), so the cases drawn do not depend on the target under test. Refresh it from a newer
release with ``python -m timm_conformance.targets.registry timm==X.Y.Z``. A test compares it with the newest release.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path

import msgspec

from ..cases.case import Geometry, Size
from ..errors import UserError
from ..families import Family

PATH = Path(__file__).with_name("models.json")


class RealModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One registered model: its name with tag, timm module, patch size, and default input size ``(height, width)``.

    ``patch_size`` is the patch kernel's; ``(1, 1)`` without a kernel. ``stride`` is the stride of the stem before the kernel;
    1 without a stem.
    """

    name: str
    module: str
    patch_size: Size
    input_size: Size
    stride: int = 1

    @property
    def geometry(self) -> Geometry:
        """The geometry of its published checkpoint."""
        h, w = (n // (p * self.stride) for n, p in zip(self.input_size, self.patch_size))
        return Geometry(self.patch_size, (h, w))


@lru_cache(maxsize=1)
def catalogue() -> dict[str, RealModel]:
    """Every model of the snapshot, by name. Raises :class:`UserError` if the snapshot cannot be read."""
    try:
        models = msgspec.json.decode(PATH.read_bytes(), type=list[RealModel])
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"the snapshot of registered models {PATH} cannot be read: {error}; restore it") from None
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
    """The registered models whose upstream checkpoints are of ``family``.

    Raises :class:`UserError` for a glob that matches no registered model of the family's module.
    """
    module = family.models_module or family.module
    for field, globs in (("models", family.models), ("not_models", family.not_models)):
        vain = [glob for glob in globs if not _matching(module, (glob,), ())]
        if vain:
            raise UserError(
                f"family {family.name!r}: {field} has {vain[0]!r}, which matches no model of timm.models.{module} in "
                "conformance/drawing/models.json"
            )
    return _matching(module, family.models, family.not_models)
