"""timm's ResNet hybrids in timm's own names: a root alone, or a root and stages, before the patch embedding.

Source: ``huggingface/pytorch-image-models`` ``timm/models/vision_transformer_hybrid.py``, ``timm/models/resnetv2.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..forward import linear, patchify
from ..stems import TIMM, features
from .rules import SAME, Format, strip
from .timm_native import encode_tokens

_BACKBONE = "patch_embed.backbone."
_KERNEL = "patch_embed.proj.weight"


def _units(backbone: Mapping[str, Tensor]) -> list[int]:
    found = [re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key) for key in backbone]
    blocks = sorted({(int(m[1]), int(m[2])) for m in found if m})
    return [sum(stage == s for s, _ in blocks) for stage in sorted({s for s, _ in blocks})]


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits, or pooled features where the checkpoint has no head."""
    backbone = strip(state, _BACKBONE)
    units = _units(backbone)

    def name(upstream: str, part: str) -> str:
        module = upstream.rsplit("/", 1)[-1]
        found = re.match(r"block(\d+)/unit(\d+)/", upstream)
        if found is None:
            return ("stem." if units else "") + {"conv_root": "conv", "gn_root": "norm"}[module] + f".{part}"
        block = f"stages.{int(found[1]) - 1}.blocks.{int(found[2]) - 1}."
        module = {"conv_proj": "downsample.conv", "gn_proj": "downsample.norm"}.get(
            module, module.replace("gn", "norm")
        )
        return f"{block}{module}.{part}"

    x = features(
        image,
        lambda upstream: backbone.get(name(upstream, "weight")),
        lambda upstream: (backbone[name(upstream, "weight")], backbone[name(upstream, "bias")]),
        units,
        TIMM,
    )
    x = encode_tokens(state, patchify(x, state[_KERNEL], state["patch_embed.proj.bias"]), arch)
    return linear(x, state, "head") if "head.weight" in state else x


HYBRID_RESNET = Format(
    name="hybrid_resnet",
    namespace="",
    rules=(SAME,),
    evidence=lambda state: (
        _KERNEL in state
        and (f"{_BACKBONE}conv.weight" in state or f"{_BACKBONE}stem.conv.weight" in state)
        and "mask_token" not in state
    ),
    forward=_forward,
)
