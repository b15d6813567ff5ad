#!/usr/bin/env bash
# timm 1.0.31: a NaFlexViT takes the kernel of a 2x3 patch for that of a 1x6 patch, without an error.
#
# Behaviour. create_model(..., use_naflex=True, patch_size=(1, 6)) with a checkpoint of a Vision Transformer with patches of 2x3
# loads strictly and without a warning, and gives another output than the classic model from the same call. NaFlexViT stores the
# patch kernel as a linear layer, of which only the number of pixels is left; the classic model resamples the kernel.
#
# Who meets it. Whoever loads a checkpoint with another patch shape of as many pixels, 8x32 for 16x16 for instance. Other patch
# sizes end in a size mismatch.
#
# Output seen (torch 2.13.0, Python 3.11):
#   kernel of the NaFlexViT: as long as the checkpoint's and with its values, unchanged
#   classic and NaFlexViT agree: False
#   classic and NaFlexViT agree at the checkpoint's own patch: True
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
name = "vit_tiny_patch16_224"
torch.manual_seed(0)
saved = timm.create_model(name, patch_size=(2, 3), img_size=(8, 12), **options).state_dict()


def load(patch_size, img_size, **more):
    overlay = {"state_dict": dict(saved), "input_size": (3, 8, 12)}
    asked = {"patch_size": patch_size, "img_size": img_size, "pretrained_cfg_overlay": overlay}
    return timm.create_model(name, pretrained=True, **asked, **options, **more).eval()


def agree(patch_size, img_size):
    image = torch.randn(1, 3, *img_size)
    with torch.no_grad():
        one, other = (load(patch_size, img_size, **more)(image) for more in ({}, {"use_naflex": True}))
    return torch.allclose(one, other, atol=1e-4)


kernel = load((1, 6), (4, 24), use_naflex=True).embeds.proj.weight
kept = torch.equal(kernel, saved["patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1))
print("timm", timm.__version__, "torch", torch.__version__)
print("kernel of the NaFlexViT:", "as long as the checkpoint's and with its values, unchanged" if kept else "resampled")
other, own = agree((1, 6), (4, 24)), agree((2, 3), (8, 12))
print("classic and NaFlexViT agree:", other)
print("classic and NaFlexViT agree at the checkpoint's own patch:", own)
sys.exit(0 if kept and own and not other else 1)
PYTHON
