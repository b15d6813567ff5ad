"""OpenCLIP models whose image tower is a timm model (``visual.trunk.``), bare and wrapped by DistributedDataParallel.

Source: ``mlfoundations/open_clip`` ``src/open_clip/timm_model.py: TimmModel``. The trunk keeps timm's names and has no
classifier; the projection to the shared space, when there is one, is ``visual.head.proj`` (its bias only with
``timm_proj_bias``), which timm keeps in ``head``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..forward import linear
from .eva import is_eva
from .rules import Fill, Format, Rename, strip
from .timm_native import trunk_forward


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Image embedding ``(batch, output_dim)``, or the trunk's pooled features without a projection."""
    x = trunk_forward(strip(state, "visual.trunk."), image, arch)
    return linear(x, state, "visual.head.proj") if "visual.head.proj.weight" in state else x


OPENCLIP_TRUNK = Format(
    name="openclip_trunk",
    namespace="visual.",
    rules=(
        Rename("visual.head.proj.{p}", "head.{p}"),
        Fill("head.bias", like="head.weight"),
        Rename("visual.trunk.{rest}", "{rest}"),
    ),
    evidence=lambda state: (
        "visual.trunk.patch_embed.proj.weight" in state and not is_eva(strip(state, "visual.trunk."))
    ),
    forward=_forward,
)

OPENCLIP_TRUNK_DDP = OPENCLIP_TRUNK.prefixed("module.", "openclip_trunk_ddp")
