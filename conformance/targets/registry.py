"""The models that a timm release registers. ``python -m timm_conformance.targets.registry TARGET`` writes ``models.json``."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from ..cases.case import Size
from ..drawing.catalogue import PATH, RealModel
from .releases import FIRST_RELEASE
from .target import activate, parse_target

# The modules whose loaders the suite judges, with the first release of each.
MODULES = {
    "vision_transformer": FIRST_RELEASE,
    "deit": FIRST_RELEASE,
    "vision_transformer_hybrid": FIRST_RELEASE,
    "vision_transformer_relpos": FIRST_RELEASE,
    "vision_transformer_sam": "0.9.5",
    "eva": FIRST_RELEASE,
    "beit": FIRST_RELEASE,
    "naflexvit": "1.0.16",
    "swin_transformer": FIRST_RELEASE,
    "swin_transformer_v2": FIRST_RELEASE,
}


def read_registry() -> list[RealModel]:
    """The registered models of the timm that this process imports."""
    import timm
    import torch

    found: list[RealModel] = []
    built: dict[str, Any] = {}
    for name in timm.list_models(pretrained=True):
        architecture, size = name.split(".")[0], tuple(timm.get_pretrained_cfg(name).input_size[-2:])
        module = timm.models.model_entrypoint(architecture).__module__.rsplit(".", 1)[-1]
        if module not in MODULES:
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


def _kernel_size(embed: Any) -> Size:
    return getattr(getattr(embed, "proj", None), "kernel_size", (1, 1))


def _shallow(architecture: str) -> Any:
    """The model with one block, or with all blocks if its options name single blocks. The patch embedding is the same."""
    import timm

    try:
        return timm.create_model(architecture, depth=1)
    except (AssertionError, TypeError):
        return timm.create_model(architecture)


def main(spec: str) -> None:
    """Write ``models.json`` from the target ``spec``."""
    activate(parse_target(spec))
    lines = ",\n".join(msgspec.json.encode(m).decode() for m in read_registry())
    PATH.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
