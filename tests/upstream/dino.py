"""DINOv2 in each of its four forms, and TIPSv2 imitated by its prefix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .model import TINY, Upstream, randomise, saved
from .packages import load

_OPTIONS = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4}


def _dinov2(family: str, module: str, registers: int = 0, swiglu: bool = False) -> Upstream:
    options: dict[str, Any] = {**_OPTIONS, "init_values": 1.0, "block_chunks": 0}
    options["ffn_layer"] = "swiglufused" if swiglu else "mlp"
    if registers:
        options["num_register_tokens"] = registers
    model = randomise(load(module).DinoVisionTransformer(**options))
    arch = {**TINY, "num_classes": 0, "layer_scale": True, "reg_tokens": registers, "no_embed_class": registers > 0}
    if swiglu:  # 2/3 of the usual width for each half, rounded up to a multiple of 8
        arch |= {"swiglu": True, "mlp_ratio": 2 * 88 / 32}
    package, file = module.partition(".")[::2]
    return Upstream(
        family=family,
        origin=f"{'dinov2' if package == 'dinov2' else 'jkp-depth-anything-v2'}: {package}/{file.replace('.', '/')}.py"
        " DinoVisionTransformer",
        arch=arch,
        checkpoint=saved(model),
        run=lambda image: model.forward_features(image)["x_norm_clstoken"],
    )


def dinov2() -> Upstream:
    """The first release's code, without registers."""
    return _dinov2("dinov2", "dinov2.models.vision_transformer")


def dinov2_swiglu() -> Upstream:
    """The giant model's MLP, without registers."""
    return _dinov2("dinov2_swiglu", "dinov2.models.vision_transformer", swiglu=True)


def dinov2_registers() -> Upstream:
    """Four registers, in the copy that Depth Anything V2 ships."""
    return _dinov2("dinov2_registers", "depth_anything_v2.dinov2", registers=4)


def dinov2_swiglu_registers() -> Upstream:
    """The giant model with four registers."""
    return _dinov2("dinov2_swiglu", "depth_anything_v2.dinov2", registers=4, swiglu=True)


def _tips(family: str, swiglu: bool) -> Upstream:
    made = _dinov2("dinov2_registers", "depth_anything_v2.dinov2", registers=1, swiglu=swiglu)
    checkpoint = {f"vision_encoder.{key}": value for key, value in made.checkpoint.items()}
    return replace(made, family=family, checkpoint=checkpoint)


def tipsv2() -> Upstream:
    """Imitation: a DINOv2 model with one register, under TIPSv2's prefix."""
    return _tips("tipsv2", swiglu=False)


def tipsv2_swiglu() -> Upstream:
    """Imitation: a giant DINOv2 model with one register, under TIPSv2's prefix."""
    return _tips("tipsv2_swiglu", swiglu=True)


BUILDERS = (dinov2, dinov2_swiglu, dinov2_registers, dinov2_swiglu_registers, tipsv2, tipsv2_swiglu)
