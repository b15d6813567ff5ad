"""Tiny Vision Transformer checkpoints, and models that have as much of one as a loader may look at. No timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from timm_conformance.cases.case import Case, Geometry, Size
from timm_conformance.checkpoints import state_dicts
from timm_conformance.families import FAMILIES, Family
from timm_conformance.families.shapes import pools_by_average
from timm_conformance.reference import FORMATS, Facts, LoadError, load_state_dict

GEOMETRY = Geometry((4, 4), (2, 2))
ARCH = {
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2,
    "class_token": True,
    "reg_tokens": 0,
    "num_classes": 3,
}

# What the smallest models of these families need beyond ARCH.
OPTIONS: dict[str, dict[str, Any]] = {
    "timm_native": {},
    "legacy_linear": {},
    "openai_clip": {"pre_norm": True},
    "dinov2": {"num_classes": 0, "layer_scale": True},
    "radio": {
        "num_classes": 0,
        "reg_tokens": 2,
        "no_embed_class": True,
        "final_norm": False,
        "align_corners": False,
    },
    "aimv2": {
        "class_token": False,
        "num_classes": 0,
        "global_pool": "avg",
        "fc_norm": False,
        "qkv_bias": False,
        "proj_bias": False,
        "rms_norm": True,
        "embed_norm": True,
        "swiglu": "split",
    },
    "deit_distilled": {"dist_token": True},
    "google_npz": {"fc_norm": False},
    "google_npz_stem": {"fc_norm": False, "stages": 0},
    "google_npz_resnet": {"fc_norm": False, "stages": 2},
    "hybrid_resnet": {"stages": 0},
    "mobileclip": {"no_embed_class": True},
    "hybrid_convstem": {"no_embed_class": True},
}
WITHOUT_KERNEL = {"mobileclip", "hybrid_convstem"}


def geometry_of(family: str) -> Geometry:
    return Geometry((1, 1), (2, 2)) if family in WITHOUT_KERNEL else GEOMETRY


class Model(nn.Module):
    """As much of a Vision Transformer as the loader may look at: named parameters, grid size, declared input size."""

    def __init__(self, family: Family, arch: Mapping[str, Any], geometry: Geometry, declared: Size | None) -> None:
        super().__init__()
        naflex, shapes = family.module == "naflexvit", family.shapes(arch, geometry)
        if "pos_embed" in shapes and (naflex or family.module == "vision_transformer_sam"):
            shapes["pos_embed"] = (1, *geometry.grid_size, arch["embed_dim"])
        if naflex:
            shapes = self._naflex(shapes, arch)
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            if leaf == "num_batches_tracked":
                module.register_buffer(leaf, torch.zeros(shape, dtype=torch.int64))
            else:
                module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
        for name, window in family.tables(arch, geometry).items():
            if len(window) == 2:
                self.get_submodule(name.rpartition(".")[0]).window_size = window
        if naflex:
            embeds = self.embeds
            embeds.patch_size, embeds.pos_embed_grid_size = geometry.patch_size, geometry.grid_size
            embeds.in_chans, embeds.channels_last = arch.get("in_chans", 3), facts_of(arch, geometry).channels_last
        else:
            self.patch_embed.grid_size, self.patch_embed.img_size = geometry.grid_size, family.img_size(arch, geometry)
        if declared is not None:
            self.pretrained_cfg = {"input_size": (3, *declared)}

    @staticmethod
    def _naflex(shapes: Mapping[str, tuple[int, ...]], arch: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        classic = {name: torch.zeros(shape, device="meta") for name, shape in shapes.items()}
        own = FORMATS["naflex_native"].encode(classic)
        if arch.get("projection") == "conv":
            own["embeds.proj.weight"] = classic["patch_embed.proj.weight"]
        return {name: tuple(tensor.shape) for name, tensor in own.items()}


def facts_of(arch: Mapping[str, Any], geometry: Geometry) -> Facts:
    """What a model of ``arch`` tells a loader."""
    chans, last = arch.get("in_chans", 3), arch.get("projection") != "channels-first"
    return Facts(chans, geometry.patch_size, arch["num_heads"], channels_last=last, fc_norm=pools_by_average(arch))


def image_encoder(source: Geometry, family: str = "timm_native", **options: Any) -> tuple[dict[str, Tensor], Case]:
    """A small encoded checkpoint of ``source``, and its case."""
    case = Case(family, ARCH | options, source, source)
    return state_dicts.encode(FAMILIES[family], case, state_dicts.truth(FAMILIES[family], case)), case


def model(source: Geometry, family: str = "timm_native", declared: Size | None = None, **options: Any) -> Model:
    return Model(FAMILIES[family], ARCH | options, source, declared)


def refusal(checkpoint: Any, into: nn.Module, **kwargs: Any) -> str:
    """The one line the loader refuses with."""
    with pytest.raises(LoadError) as caught:
        load_state_dict(checkpoint, into, **kwargs)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text
