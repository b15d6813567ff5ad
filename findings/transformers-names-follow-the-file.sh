#!/usr/bin/env bash
# transformers 5.24.0: save_pretrained of a CLIPVisionModel writes other names after the same model was loaded from an older file.
#
# Behaviour. The vision towers of CLIP and SigLIP lost a level of modules in 5.0: the state_dict() of a CLIPVisionModel has
# "embeddings.class_embedding", where files of 4.x have "vision_model.embeddings.class_embedding". A model made from a configuration
# saves the new names. A model loaded from a file with the old names has the same state_dict() as before, and saves the old names: it
# remembers how the names of the file were changed, and changes them back. CLIPVisionModelWithProjection keeps the level in both.
#
# Who meets it. Whoever reads such files by name. A fine-tuned tower has the names of the file that it began with, not those of the
# version or class that saved it, and a test on a freshly made model sees only one of the two.
#
# Output seen (transformers 5.24.0, torch 2.13.0, Python 3.11):
#   CLIPVisionModel: made anew, then saved: embeddings.class_embedding
#   CLIPVisionModel: loaded from an old file, then saved: vision_model.embeddings.class_embedding
#   the same state_dict(): True
#   CLIPVisionModelWithProjection: made anew, then saved: vision_model.embeddings.class_embedding
# Exits 0 while transformers does this, 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

LEVEL, KEY = "vision_model.", "embeddings.class_embedding"
SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
config = CLIPVisionConfig(**SMALL, image_size=8, patch_size=4)
folder = Path(sys.argv[1])


def saved(model, name):
    """The file that save_pretrained writes, and the name of the class token's tensor in it."""
    model.save_pretrained(folder / name)
    state = load_file(folder / name / "model.safetensors")
    return state, next(k for k in state if k.endswith("class_embedding"))


new = CLIPVisionModel(config)
state, made_anew = saved(new, "new")
save_file({LEVEL + k: v for k, v in state.items()}, folder / "new" / "model.safetensors", metadata={"format": "pt"})
again = CLIPVisionModel.from_pretrained(folder / "new")
_, loaded = saved(again, "again")
a, b = new.state_dict(), again.state_dict()
same = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
_, projected = saved(CLIPVisionModelWithProjection(config), "projected")

print(f"CLIPVisionModel: made anew, then saved: {made_anew}")
print(f"CLIPVisionModel: loaded from an old file, then saved: {loaded}")
print(f"the same state_dict(): {same}")
print(f"CLIPVisionModelWithProjection: made anew, then saved: {projected}")
sys.exit(0 if same and made_anew == KEY and loaded == projected == LEVEL + KEY else 1)
PYTHON
