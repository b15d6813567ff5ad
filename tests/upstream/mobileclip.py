"""MobileCLIP-B's image tower, whose norms compute in float32."""

from __future__ import annotations

import torch

from timm_conformance.cases.case import Geometry

from .model import TINY, Upstream, randomise, saved
from .packages import load


def mobileclip() -> Upstream:
    """As narrow as its stem allows; upstream fixes the number of positions to 14 x 14."""
    options = {"embed_dim": 128, "n_transformer_layers": 2, "n_attn_heads": 2, "norm_layer": "layer_norm_fp32"}
    module = load("mobileclip.models.vit", without_init=("mobileclip.models",))
    model = randomise(module.VisionTransformer(options, projection_dim=24), torch.float32)

    def run(image: torch.Tensor) -> torch.Tensor:
        output = model(image.float())
        return output["logits"] if isinstance(output, dict) else output

    return Upstream(
        family="mobileclip",
        origin="visaionmobileclip: mobileclip/models/vit.py VisionTransformer",
        arch={**TINY, "embed_dim": 128, "num_classes": 24, "no_embed_class": True},
        checkpoint=saved(model, "image_encoder.model.") | {"logit_scale": torch.tensor(1.0)},
        run=run,
        precision=torch.float32,
        source=Geometry((1, 1), (14, 14)),
    )


BUILDERS = (mobileclip,)
