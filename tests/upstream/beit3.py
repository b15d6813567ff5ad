"""BEiT-3 on torchscale's multiway encoder: a fine-tuned classifier and a pretraining checkpoint.

Attention's softmax and the MLP's activation compute in float32 there, whatever the model's dtype.
"""

from __future__ import annotations

from typing import Any

import torch

from .model import TINY, Upstream, randomise, saved
from .packages import load

_ORIGIN = "beit3-gml: beit3/{}, on torchscale-gml: torchscale/model/BEiT3.py"


def _configuration(**changes: Any) -> Any:
    """What ``beit3/modeling_utils.py: _get_base_config`` sets, at a tiny size."""
    return load("torchscale.architecture.config").EncoderConfig(
        **{
            "img_size": 16,
            "patch_size": 4,
            "vocab_size": 13,
            "multiway": True,
            "layernorm_embedding": False,
            "normalize_output": True,
            "no_output_layer": True,
            "drop_path_rate": 0.0,
            "encoder_embed_dim": 32,
            "encoder_attention_heads": 2,
            "encoder_ffn_embed_dim": 128,
            "encoder_layers": 2,
            "checkpoint_activations": None,
        }
        | changes
    )


def beit3() -> Upstream:
    """A classifier: no norm after the encoder, one after pooling."""
    configuration = _configuration(normalize_output=False)
    model = load("beit3.modeling_finetune").BEiT3ForImageClassification(configuration, num_classes=7)
    randomise(model)
    return Upstream(
        family="beit3",
        origin=_ORIGIN.format("modeling_finetune.py BEiT3ForImageClassification"),
        arch={**TINY, "num_classes": 7, "sub_norm": True, "global_pool": "avg"},
        checkpoint={"model": saved(model)},
        run=model,
        precision=torch.float32,
    )


def beit3_pretraining() -> Upstream:
    """An encoder with its own norm, whose name timm does not translate."""
    model = load("beit3.modeling_utils").BEiT3Wrapper(_configuration())
    randomise(model)
    return Upstream(
        family="beit3",
        origin=_ORIGIN.format("modeling_utils.py BEiT3Wrapper"),
        arch={**TINY, "num_classes": 0, "sub_norm": True, "global_pool": "token"},
        checkpoint={"model": saved(model)},
        run=lambda image: model.beit3(visual_tokens=image)["encoder_out"][:, 0],
        precision=torch.float32,
        known="beit3-encoder-norm-lost",
    )


BUILDERS = (beit3, beit3_pretraining)
