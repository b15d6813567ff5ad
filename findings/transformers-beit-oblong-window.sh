#!/usr/bin/env bash
# transformers 5.24.0: a BEiT of a non-square image reads its relative position table with height and width exchanged.
#
# Behaviour. BeitRelativePositionBias holds one row for each offset (rows, columns) between two patches, in the order of its index:
# (2 * height - 1) rows of (2 * width - 1). Its forward always passes the table through an interpolation, also at the window that
# the model was made for. There it takes the rows for (2 * width - 1) by (2 * height - 1) and resizes them to the window. For a
# square window that changes nothing. For another one the bias is that of other offsets, mixed, and no error or warning is given.
#
# Who meets it. Whoever converts a BEiT trained at another aspect ratio between timm and transformers, or compares the two: the same
# tensors under the same index give another output. The index and the table in the file are right; only the forward is not.
#
# Output seen (transformers 5.24.0, torch 2.13.0, Python 3.11):
#   window 3x3: the bias is the table at the index
#   window 2x4: off by up to 2.0 where rows are numbered 0 to 20
#   window 4x2: off by up to 3.3 where rows are numbered 0 to 20
# Exits 0 while transformers does this, 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from transformers import BeitConfig
from transformers.models.beit.modeling_beit import BeitRelativePositionBias


def deviation(height, width):
    """How far the bias is from the table's rows at the module's own index, and the number of rows of offsets."""
    config = BeitConfig(hidden_size=8, num_attention_heads=1, image_size=(4 * height, 4 * width), patch_size=4)
    module = BeitRelativePositionBias(config)
    assert tuple(module.window_size) == (height, width)
    rows = (2 * height - 1) * (2 * width - 1)
    with torch.no_grad():
        module.relative_position_bias_table.copy_(torch.arange(float(rows + 3))[:, None])
        got = module((height, width))[0, 0]
    index = module.generate_relative_position_index((height, width))
    return float((got - index).abs().max()), rows


shown = True
for height, width in ((3, 3), (2, 4), (4, 2)):
    off, rows = deviation(height, width)
    if off:
        print(f"window {height}x{width}: off by up to {off:.1f} where rows are numbered 0 to {rows - 1}")
    else:
        print(f"window {height}x{width}: the bias is the table at the index")
    shown &= (off > 1) == (height != width)
sys.exit(0 if shown else 1)
PYTHON
