"""The registered timm models, with the patch and image sizes real checkpoints come in.

A snapshot (``models.json``), so that the cases drawn do not depend on the target under test. Refresh it from a newer
release with ``python -m conformance.catalogue timm==X.Y.Z``; a test compares it with the newest release.
"""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path

import msgspec

from .cases import Geometry, Size
from .families import Family

PATH = Path(__file__).with_name("models.json")


class RealModel(msgspec.Struct, frozen=True):
    """One registered model: name with tag, module, patch size and default input size ``(height, width)``."""

    name: str
    module: str
    patch_size: Size
    input_size: Size

    @property
    def geometry(self) -> Geometry:
        """The geometry its published checkpoint has."""
        (ph, pw), (h, w) = self.patch_size, self.input_size
        return Geometry(self.patch_size, (h // ph, w // pw))


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
    return _matching(family.module, family.models, family.not_models)


def read_registry() -> list[RealModel]:
    """The registry of the timm that is importable now."""
    import timm

    found = []
    for name in timm.list_models(pretrained=True):
        cfg, patch = timm.get_pretrained_cfg(name), re.search(r"patch(\d+)", name)
        module = timm.models.model_entrypoint(name.split(".")[0]).__module__.rsplit(".", 1)[-1]
        if patch and module.startswith(("vision_transformer", "deit", "eva", "beit")):
            size = int(patch.group(1))
            found.append(RealModel(name, module, (size, size), tuple(cfg.input_size[-2:])))
    return sorted(found, key=lambda m: m.name)


def main(spec: str) -> None:
    """Write ``models.json`` from the target ``spec``."""
    from .targets import activate, parse_target

    activate(parse_target(spec))
    lines = ",\n".join(msgspec.json.encode(m).decode() for m in read_registry())
    PATH.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
