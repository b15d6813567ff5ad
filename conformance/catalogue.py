"""The registered timm models, with the patch and image sizes real checkpoints come in.

A snapshot (``models.json``), so that the cases drawn do not depend on the target under test. Refresh it from a newer
release with ``python -m conformance.catalogue timm==X.Y.Z``; a test compares it with the newest release.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path

import msgspec

from .cases import Geometry, Size
from .families import Family

PATH = Path(__file__).with_name("models.json")
_MODULES = (
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vision_transformer_sam",
    "deit",
    "eva",
    "beit",
    "naflexvit",
    "swin_transformer",
    "swin_transformer_v2",
)


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


def read_registry() -> list[RealModel]:
    """The registry of the timm that is importable now."""
    import timm
    import torch

    found, built = [], {}
    for name in timm.list_models(pretrained=True):
        architecture, size = name.split(".")[0], tuple(timm.get_pretrained_cfg(name).input_size[-2:])
        module = timm.models.model_entrypoint(architecture).__module__.rsplit(".", 1)[-1]
        if module not in _MODULES:
            continue
        if architecture not in built:
            with torch.device("meta"):
                model = _shallow(architecture)
            built[architecture] = getattr(model, "patch_embed", None) or model.embeds
        embed = built[architecture]
        patch = tuple(getattr(embed, "patch_size", (1, 1)) if module == "naflexvit" else _kernel_size(embed))
        grid = getattr(embed, "grid_size", None)
        stride = embed.img_size[0] // (grid[0] * patch[0]) if grid else 1
        found.append(RealModel(name, module, patch, size, stride))
    return sorted(found, key=lambda m: m.name)


def _kernel_size(embed) -> Size:
    return getattr(getattr(embed, "proj", None), "kernel_size", (1, 1))


def _shallow(architecture: str):
    """The model with one block, or whole where its options speak of each block: its patch embedding is the same."""
    import timm

    try:
        return timm.create_model(architecture, depth=1)
    except (AssertionError, TypeError):
        return timm.create_model(architecture)


def main(spec: str) -> None:
    """Write ``models.json`` from the target ``spec``."""
    from .targets import activate, parse_target

    activate(parse_target(spec))
    lines = ",\n".join(msgspec.json.encode(m).decode() for m in read_registry())
    PATH.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
