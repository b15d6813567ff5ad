#!/usr/bin/env bash
# timm 1.0.31: create_model("local-dir:FOLDER") on a folder of sharded safetensors loads the first shard alone.
#
# Behaviour. A folder with model.safetensors.index.json and its shards is what Hugging Face's libraries write for a model above a
# size, and all of them read the index. timm's "local-dir:" does not: where it finds no model.safetensors it takes the first file
# whose name ends in .safetensors, with a warning in the log. With the saved number of classes the load is strict and raises on the
# tensors of the other shards, "Missing key(s)". With another number of classes it is not strict: a model comes back, and what lies
# in the other shards has its random initialisation.
#
# Who meets it. Whoever saves a large ViT with max_shard_size and fine-tunes it by timm on other classes.
#
# Output seen (timm 1.0.31, torch 2.13.0, Python 3.11):
#   one file, saved classes:    20 of 20 tensors
#   one file, other classes:    18 of 20 tensors
#   two shards, saved classes:  RuntimeError: Missing key(s)
#   two shards, other classes:  10 of 20 tensors
# Exits 0 while timm does this, 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 timm==1.0.31
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

try:
    for compiled in Path(find_spec("torchvision").submodule_search_locations[0]).glob("_C*.so"):
        torch.ops.load_library(compiled)
except OSError:  # made for another build of torch; timm's models need none of it
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm

NAME, SMALL = "vit_tiny_patch16_224", {"embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 32}
state = {k: torch.rand_like(v) for k, v in timm.create_model(NAME, num_classes=5, **SMALL).state_dict().items()}
names = sorted(state)
config = {"architecture": NAME, "num_classes": 5, "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 5}}
config["pretrained_cfg"] |= {"classifier": "head", "first_conv": "patch_embed.proj"}


def folder_of(files):
    """A folder with a config, and these tensors in these files; with an index if there are several."""
    made = Path(sys.argv[1]) / f"model-of-{len(files)}"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(config))
    for file, held in files.items():
        save_file({name: state[name] for name in held}, made / file)
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": {name: file for file, held in files.items() for name in held}}
        (made / "model.safetensors.index.json").write_text(json.dumps(index))
    return made


def loaded(made, classes):
    try:
        model = timm.create_model(f"local-dir:{made}", pretrained=True, num_classes=classes, **SMALL)
    except RuntimeError as error:
        return "RuntimeError: Missing key(s)" if "Missing key(s)" in str(error) else str(error)
    got = model.state_dict()
    same = sum(got[name].shape == state[name].shape and torch.equal(got[name], state[name]) for name in names)
    return f"{same} of {len(got)} tensors"


half = len(names) // 2
one = folder_of({"model.safetensors": names})
two = folder_of(
    {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
)
said = {
    "one file, saved classes": loaded(one, 5),
    "one file, other classes": loaded(one, 7),
    "two shards, saved classes": loaded(two, 5),
    "two shards, other classes": loaded(two, 7),
}
for what, outcome in said.items():
    print(f"{what}: {outcome}")
whole, part = said["one file, saved classes"], said["two shards, other classes"]
shown = whole == f"{len(names)} of {len(names)} tensors"
shown &= said["two shards, saved classes"] == "RuntimeError: Missing key(s)"
shown &= "tensors" in part and int(part.split()[0]) <= half
sys.exit(0 if shown else 1)
PYTHON
