#!/usr/bin/env bash
# torch 2.13.0: torch.load reads a path that ends in .safetensors with the safetensors library, whatever the file holds.
#
# Behaviour. torch.load looks at the name before the content. Of a safetensors file it returns the tensors, as safetensors would: mmap=
# and weights_only= change nothing. What torch.save wrote under such a name fails with "Error while deserializing header", though the
# same bytes load under any other name, and as an open file. The other way round the name does not help: a safetensors file of another
# name is taken for a pickle and refused.
#
# Who meets it. A script with torch.save(state, "model.safetensors"): torch.load of the same path fails. And whoever reads checkpoints of
# unknown origin and trusts torch.load to tell by content.
#
# Output seen (torch 2.13.0, safetensors 0.8.0, Python 3.11):
#   safetensors, named model.safetensors: loads
#   safetensors, named model.bin: UnpicklingError
#   torch.save, named model.safetensors: SafetensorError
#   torch.save, named model.bin: loads
#   torch.save, named model.safetensors, opened first: loads
# Exits 0 while torch does this, 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 safetensors==0.8.0 numpy
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

folder = Path(sys.argv[1])
state = {"head.weight": torch.arange(6.0).reshape(2, 3)}


def loaded(source):
    try:
        got = torch.load(source, weights_only=True)
    except Exception as error:
        return type(error).__name__
    return "loads" if torch.equal(got["head.weight"], state["head.weight"]) else "other values"


said = {}
for writer, write in (("safetensors", save_file), ("torch.save", torch.save)):
    for name in ("model.safetensors", "model.bin"):
        path = folder / writer / name
        path.parent.mkdir(exist_ok=True)
        write(state, path)
        said[f"{writer}, named {name}"] = loaded(path)
with open(folder / "torch.save" / "model.safetensors", "rb") as opened:
    said["torch.save, named model.safetensors, opened first"] = loaded(opened)
for what, outcome in said.items():
    print(f"{what}: {outcome}")
sys.exit(list(said.values()) != ["loads", "UnpicklingError", "SafetensorError", "loads", "loads"])
PYTHON
