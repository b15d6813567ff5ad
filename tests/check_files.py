"""Checkpoint files for the check command: of real models at full size, with made-up weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from timm_conformance.cases.case import Case, Contents, Geometry, Size
from timm_conformance.checkpoints import files, state_dicts
from timm_conformance.families import FAMILIES

TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
CLIP = "vit_base_patch32_clip_224.openai"

# Their architectures, as families spell it.
ARCHES: dict[str, dict[str, Any]] = {
    TINY: {"embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 1000},
    CLIP: {"embed_dim": 768, "depth": 12, "num_heads": 12, "num_classes": 512, "pre_norm": True},
}
PLAIN = {"mlp_ratio": 4, "class_token": True, "reg_tokens": 0}


def tensors(
    family: str,
    model: str,
    patch_size: Size = (16, 16),
    grid_size: Size = (14, 14),
    dtype: str = "float32",
    **options: Any,
) -> dict[str, Tensor]:
    """An upstream state dict of a family for a model, with matrices small enough for twelve blocks."""
    geometry = Geometry(patch_size, grid_size)
    case = Case(
        family, PLAIN | ARCHES[model] | options, geometry, geometry, dtype=dtype, contents=Contents("normal", 1)
    )
    truth = state_dicts.truth(FAMILIES[family], case)
    small = {name: tensor * 0.1 if tensor.ndim > 1 else tensor for name, tensor in truth.items()}
    return state_dicts.encode(FAMILIES[family], case, small)


def native(**more: Any) -> dict[str, Tensor]:
    """A checkpoint of the tiny model in timm's own names."""
    return tensors("timm_native", TINY, **more)


def save(folder: Path, state: dict[str, Any], container: str = "safetensors", wrapper: str = "bare") -> Path:
    """Write a state dict to a new file of ``folder``."""
    return files.write(state, wrapper, container, folder)
