#!/usr/bin/env bash
# timm 1.0.31: FlexiViT resized by set_input_size is another model than FlexiViT created at that size.
#
# Behaviour. create_model resamples FlexiViT's weights bilinearly without antialias, the way they were trained to be resized.
# model.set_input_size(img_size=..., patch_size=...) of the loaded model resamples by antialiased bicubic interpolation, for this
# model as for any other. Both load and run without a warning.
#
# Who meets it. Whoever changes the patch size of a FlexiViT, whose point that is, by the newer of timm's two ways.
#
# Output seen (torch 2.13.0, Python 3.11):
#   ViT: created and resized agree: True
#   FlexiViT: created and resized agree: False
#   FlexiViT, largest difference of the kernels relative to the kernel: 0.56
# Exits 0 while timm does this, 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 timm==1.0.31
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

try:
    for compiled in Path(find_spec("torchvision").submodule_search_locations[0]).glob("_C*.so"):
        torch.ops.load_library(compiled)
except OSError:  # made for another build of torch; timm's models need none of it
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm

options = {"embed_dim": 8, "depth": 1, "num_heads": 2}
kernel = "patch_embed.proj.weight"


def both(name):
    """State dicts of a model created at 96 pixels with patches of 8, and of one resized to that."""
    torch.manual_seed(0)
    saved = timm.create_model(name, img_size=64, patch_size=16, **options).state_dict()
    asked = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": saved, "input_size": (3, 64, 64)}, **options}
    created = timm.create_model(name, img_size=96, patch_size=8, **asked)
    resized = timm.create_model(name, img_size=64, patch_size=16, **asked)
    resized.set_input_size(img_size=96, patch_size=8)
    return created.state_dict(), resized.state_dict()


def agree(created, resized):
    return all(torch.allclose(tensor, resized[key], atol=1e-5) for key, tensor in created.items())


vit, flexivit = both("vit_small_patch16_224"), both("flexivit_small")
print("timm", timm.__version__, "torch", torch.__version__)
print("ViT: created and resized agree:", agree(*vit))
print("FlexiViT: created and resized agree:", agree(*flexivit))
created, resized = (state[kernel] for state in flexivit)
off = float((resized - created).abs().max() / created.abs().max())
print(f"FlexiViT, largest difference of the kernels relative to the kernel: {off:.2g}")
sys.exit(0 if agree(*vit) and not agree(*flexivit) else 1)
PYTHON
