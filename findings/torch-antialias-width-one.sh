#!/usr/bin/env bash
# torch 2.13.0, CPU: F.interpolate(antialias=True) to a width of one pixel repeats its first row. 2.2.0, 2.14.1 and 2.15.0 do the same.
#
# Behaviour. A contiguous image resized to (h', 1), with h' other than its height, gets the same value in every row; only the
# first row is right. Its transposed twin, resized to (1, h'), is right, and so is the same image in the channels_last layout
# with three channels. Bilinear and bicubic, float32 and float64 are affected alike, and there is no error or warning.
#
# Who meets it. timm resizes a patch kernel by resizing basis images, one channel each, with antialias. A patch embedding
# resampled to a patch size of width 1 is therefore wrong, and the same kernel on its side, resampled to height 1, is right.
#
# Output seen (torch 2.13.0, AVX2):
#   column: 3.8471 3.8471
#   row:    3.8471 11.1529
# Exits 0 while torch does this, 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import torch.nn.functional as F

image = torch.arange(16.0).reshape(1, 1, 4, 4)
wrong = 0
for mode in ("bilinear", "bicubic"):
    for dtype in (torch.float32, torch.float64):
        one = image.to(dtype)
        column = F.interpolate(one, size=(2, 1), mode=mode, antialias=True).flatten()
        row = F.interpolate(one.mT.contiguous(), size=(1, 2), mode=mode, antialias=True).flatten()
        wrong += bool(column[0] == column[1]) and not torch.allclose(column, row)
print("torch", torch.__version__)
print("column:", *(f"{x:.4f}" for x in column.tolist()))
print("row:   ", *(f"{x:.4f}" for x in row.tolist()))
coloured = image.expand(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
right = F.interpolate(coloured, size=(2, 1), mode="bicubic", antialias=True)[0, 0].flatten()
sys.exit(0 if wrong == 4 and torch.allclose(right.double(), row, atol=1e-4) else 1)
PYTHON
