"""Vision Transformers behind a convolutional stem: ResNet hybrids in timm's names, and MobileCLIP-B."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from hypothesis import strategies as st

from ..cases.case import Case, Geometry
from . import asks, vit
from .base import Arch, Family, Shapes

_BACKBONE = "patch_embed.backbone."
# What is padded is the stem's output: the stem of a padded image computes something else.
UNPADDED = ("dynamic-img-size",)


# -- ResNet stems ------------------------------------------------------------------------------------------------------


def widths(arch: Arch) -> tuple[int, int]:
    """Channels of the root and of the features. A root alone is timm's own; stages are as narrow as 32 groups allow."""
    return (32, 128) if arch["stages"] else (64, 64)


def stem_stride(arch: Arch) -> int:
    """Stride of the stem: 4 for the root, times 2 for every stage after the first."""
    return 4 * 2 ** max(arch["stages"] - 1, 0)


def resnet_shapes(arch: Arch, geometry: Geometry) -> Shapes:
    """Tensor shapes of a plain model whose patch kernel reads features, and of its stem.

    The stem has one bottleneck in each stage, ``units`` in the first. Only the first bottleneck of a stage has a projection
    on its shortcut. Older witnesses and vectors have no ``units``.
    """
    root, width = widths(arch)
    out = vit.shapes(arch, geometry)
    out["patch_embed.proj.weight"] = (arch["embed_dim"], width, *geometry.patch_size)
    stem = _BACKBONE + ("stem." if arch["stages"] else "")

    def conv(prefix: str, conv_name: str, norm_name: str, rows: int, cols: int, size: int) -> None:
        out[f"{prefix}{conv_name}.weight"] = (rows, cols, size, size)
        out[f"{prefix}{norm_name}.weight"] = out[f"{prefix}{norm_name}.bias"] = (rows,)

    conv(stem, "conv", "norm", root, 3, 7)
    for stage in range(arch["stages"]):
        for unit in range(1 if stage else arch.get("units", 1)):
            block, inner = f"{_BACKBONE}stages.{stage}.blocks.{unit}.", width // 4
            before = width if stage or unit else root
            if not unit:
                conv(block, "downsample.conv", "downsample.norm", width, before, 1)
            conv(block, "conv1", "norm1", inner, before, 1)
            conv(block, "conv2", "norm2", inner, inner, 3)
            conv(block, "conv3", "norm3", width, inner, 1)
    return out


def without_features(case: Case) -> str | None:
    """Why a model with stages cannot run on one pixel of features: torch's group norm refuses groups of a single value."""
    geometry = case.destination
    single = prod(geometry.patch_size) * prod(geometry.grid_size) == 1
    return (
        "no model with stages can be built for a single pixel of features" if single and case.arch["stages"] else None
    )


def resnet_first_conv(arch: Arch) -> str:
    """Name of the root's convolution."""
    return f"{_BACKBONE}{'stem.' if arch['stages'] else ''}conv.weight"


def resnet_kwargs(arch: Arch) -> dict[str, Any]:
    """Constructor arguments of a hybrid."""
    stages = {name: arch[name] for name in ("stages", "units") if name in arch}
    return vit.model_kwargs(arch) | {"embed_layer": ("timm_conformance.targets.backbones:resnet_embed", stages)}


def resnet_created_kwargs(arch: Arch) -> dict[str, Any]:
    """Arguments of the registered model, which has the same root. Narrow stages have to replace its own."""
    return resnet_kwargs(arch) if arch["stages"] else vit.model_kwargs(arch)


HYBRID_RESNET = Family(
    name="hybrid_resnet",
    source="huggingface/pytorch-image-models timm/models/vision_transformer_hybrid.py",
    known_since="0.9.0",
    architectures=vit.architectures(),
    by_model=lambda name: {"stages": 0} if "_r_s16" in name else {"stages": 2, "units": 2},
    shapes=resnet_shapes,
    num_prefix_tokens=vit.num_prefix_tokens,
    model_kwargs=resnet_kwargs,
    created_kwargs=resnet_created_kwargs,
    asks=asks.pre_norm,
    module="vision_transformer_hybrid",
    # Old releases have no function of the hybrids' own.
    filters=("checkpoint_filter_fn", "vision_transformer:checkpoint_filter_fn"),
    models=("vit_*_r*_s??_*", "vit_*_r_s16_*"),
    first_conv=resnet_first_conv,
    stride=stem_stride,
    max_patch=8,
    square_grids="often",  # timm takes other grids for squares
    tags=lambda case: frozenset({"stages" if case.arch["stages"] else "root-alone"}),
    own_regimes=frozenset({"stages", "root-alone"}),
    undecidable=without_features,
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    in_forward=UNPADDED,
    weight=0.22,
)


# -- MobileCLIP --------------------------------------------------------------------------------------------------------


def _mobile_shapes(arch: Arch, geometry: Geometry) -> Shapes:
    dim = arch["embed_dim"]
    out = vit.shapes(arch, geometry)
    del out["patch_embed.proj.weight"], out["patch_embed.proj.bias"]
    for n, (rows, cols, size) in enumerate([(dim // 4, 3, 4), (dim // 4, dim // 4, 2), (dim, dim // 4, 2)]):
        out[f"{_BACKBONE}{n}.conv.weight"] = (rows, cols, size, size)
        if n == 2:
            out[f"{_BACKBONE}{n}.conv.bias"] = (rows,)
            continue
        for part in ("weight", "bias", "running_mean", "running_var"):
            out[f"{_BACKBONE}{n}.bn.{part}"] = (rows,)
        out[f"{_BACKBONE}{n}.bn.num_batches_tracked"] = ()
    return out


def _mobile_kwargs(arch: Arch) -> dict[str, Any]:
    return vit.model_kwargs(arch, eps=1e-5) | {
        "embed_layer": ("timm_conformance.targets.backbones:mobileclip_embed", {"dim": arch["embed_dim"]})
    }


def _text_tower(arch: Arch) -> Shapes:
    return {f"text_encoder.{key}": shape for key, shape in vit.text_tower().items()} | {"logit_scale": ()}


MOBILECLIP = Family(
    name="mobileclip",
    source="apple/ml-mobileclip mobileclip/models/vit.py",
    known_since="1.0.7",
    architectures=vit.architectures(num_classes=st.integers(1, 5), no_embed_class=st.just(True)),
    shapes=_mobile_shapes,
    num_prefix_tokens=vit.num_prefix_tokens,
    # The stem is upstream's, whose first convolution is padded by one. timm's own model does not pad, so its output differs
    # although every tensor is right. A loader cannot change that.
    model_kwargs=_mobile_kwargs,
    asks=asks.pre_norm,
    module="vision_transformer_hybrid",
    # Old releases have no function of the hybrids' own.
    filters=("checkpoint_filter_fn", "vision_transformer:checkpoint_filter_fn"),
    models=("vit_base_mci_224.*",),
    first_conv=lambda arch: f"{_BACKBONE}0.conv.weight",
    implied=lambda arch: frozenset({"head.bias"}),
    foreign=_text_tower,
    wrappers=("bare", "model", "state_dict"),
    stride=lambda arch: 16,
    max_patch=1,
    square_grids="often",  # timm takes other grids for squares
    unreachable=frozenset(
        {
            "prefix-0",
            "prefix-1+R",
            "patch-grow",
            "patch-shrink",
            "patch-mixed",
            "patch-non-square",
        }
    ),
    weight=0.8,
)

HYBRID_CONVSTEM = replace(
    MOBILECLIP,
    name="hybrid_convstem",
    source="huggingface/pytorch-image-models timm/models/vision_transformer_hybrid.py (MobileCLIP in timm's names)",
    architectures=vit.architectures(no_embed_class=st.just(True)),
    implied=lambda arch: frozenset(),
    foreign=lambda arch: {},
    weight=0.4,
)

FAMILIES = (HYBRID_RESNET, MOBILECLIP, HYBRID_CONVSTEM)
