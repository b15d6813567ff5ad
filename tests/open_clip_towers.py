"""``python tests/open_clip_towers.py FOLDER``: real open_clip models, their checkpoints, and what open_clip computes.

For each tower, ``FOLDER/NAME.safetensors`` holds the state dict as open_clip saves it (image tower under ``visual.``,
text tower beside it), and ``FOLDER/NAME.pt`` an image, the output on it in float64, and how far a relative change of the
image moves that output.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from timm_conformance.targets import torchvision_shim

NUDGE = 2.0**-20


def tiny() -> tuple[nn.Module, dict[str, Tensor]]:
    """A whole open_clip CLIP model, text tower included: image 64, patch 16, width 32."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=64)
    text = CLIPTextCfg(context_length=7, vocab_size=11, width=16, heads=2, layers=1)
    model = CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text)
    randomise(model)
    return model.visual, model.state_dict()


def full() -> tuple[nn.Module, dict[str, Tensor]]:
    """The image tower of ViT-B/16, every size as in ``ViT-B-16.json``, beside a few text tensors."""
    from open_clip.transformer import VisionTransformer

    sizes = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "heads": 12, "mlp_ratio": 4}
    tower = VisionTransformer(**sizes, output_dim=512)
    randomise(tower)
    state = {f"visual.{k}": v for k, v in tower.state_dict().items()}
    text = {"positional_embedding": torch.randn(77, 512), "logit_scale": torch.tensor(4.6)}
    return tower, text | {"text_projection": torch.randn(512, 512), "ln_final.weight": torch.ones(512)} | state


def randomise(model: nn.Module) -> None:
    """Move every parameter away from its initial value: unit norms and zero biases would hide a mix-up."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)


def main(folder: str) -> None:
    """Write both towers."""
    torchvision_shim.install()
    torch.manual_seed(0)
    for make, size in ((tiny, 64), (full, 224)):
        tower, state = make()
        save_file(state, Path(folder) / f"{make.__name__}.safetensors")
        image = torch.randn(1, 3, size, size, dtype=torch.float64)
        nudged = image * (1 + NUDGE * torch.randn_like(image).sign())
        with torch.inference_mode():
            output, moved = tower.eval().double()(torch.cat([image, nudged])).clone().split(1)
        made = {"image": image, "output": output, "sensitivity": float((moved - output).norm() / output.norm() / NUDGE)}
        torch.save(made, Path(folder) / f"{make.__name__}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
