"""Models trained by masking: I-JEPA and MAE."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from .model import TINY, Upstream, randomise, saved
from .packages import load

_NORM = partial(nn.LayerNorm, eps=1e-6)


def _ijepa(prefix: str, **changes: Any) -> Upstream:
    """A training checkpoint: encoder, its moving average under the same names, and the predictor."""
    module = load("ijepa.models.vision_transformer")
    options = {"img_size": [16], "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "norm_layer": _NORM}
    encoder = randomise(module.VisionTransformer(**options))
    average = randomise(module.VisionTransformer(**options), seed=1)
    predictor = module.VisionTransformerPredictor(
        num_patches=16, embed_dim=32, predictor_embed_dim=16, depth=1, num_heads=2
    )
    made: dict[str, Any] = {
        "family": "ijepa",
        "origin": "cag-ijepa: ijepa/models/vision_transformer.py VisionTransformer",
        "arch": {**TINY, "class_token": False, "num_classes": 0, "global_pool": "avg", "fc_norm": False},
        "checkpoint": {
            "encoder": saved(encoder, prefix),
            "predictor": saved(randomise(predictor), prefix),
            "target_encoder": saved(average, prefix),
            "opt": {"state": {}},
            "epoch": 1,
        },
        "run": lambda image: encoder(image).mean(dim=1),
    }
    return Upstream(**made | changes)


def ijepa() -> Upstream:
    """As the training script saves it, from DistributedDataParallel."""
    return _ijepa("module.")


def ijepa_without_ddp() -> Upstream:
    """An encoder of a single process, of which timm keeps nothing."""
    return _ijepa("", family="ijepa_without_ddp", known="ijepa-encoder-without-ddp-dropped")


def _mae() -> nn.Module:
    """The whole pretraining model; upstream too takes its blocks from timm."""
    model = load("visionts.models_mae").MaskedAutoencoderViT(
        img_size=16,
        patch_size=4,
        embed_dim=32,
        depth=2,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        norm_layer=_NORM,
    )
    return randomise(model)


def _mae_upstream(model: nn.Module, **changes: Any) -> Upstream:
    in_order = torch.arange(16.0).expand(2, -1)  # nothing is masked, and no patch changes places
    made: dict[str, Any] = {
        "origin": "visionts: visionts/models_mae.py MaskedAutoencoderViT",
        "arch": {**TINY, "num_classes": 0},
        "run": lambda image: model.forward_encoder(image, 0.0, in_order)[0][:, 0],
    }
    return Upstream(**made | changes)


def mae() -> Upstream:
    """The encoder alone, as the published mae_pretrain_*.pth files hold it."""
    model = _mae()
    encoder = {k: v for k, v in saved(model).items() if not k.startswith("decoder_") and k != "mask_token"}
    return _mae_upstream(model, family="mae", checkpoint={"model": encoder})


def mae_pretraining() -> Upstream:
    """The whole model, whose decoder timm passes on."""
    model = _mae()
    return _mae_upstream(
        model, family="mae_pretraining", checkpoint={"model": saved(model)}, known="mae-decoder-passed-on"
    )


BUILDERS = (ijepa, ijepa_without_ddp, mae, mae_pretraining)
