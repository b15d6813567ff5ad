#!/usr/bin/env bash
# torch 2.13.0, CPU: the product of a CPU matrix and a matrix on the meta device is a CPU tensor whose values were never computed.
#
# Behaviour. A tensor on the meta device has a shape and no values. A sum of one with a CPU tensor raises ("Tensor on device meta
# is not on the expected device cpu"). The product `a @ b` does not: it returns a CPU tensor of the right shape and dtype, without
# an error or a warning, and what it holds is whatever the memory held before. Two products of the same matrices can differ.
#
# Who meets it. Whoever builds a large model under torch.device("meta") or set_default_device("meta") and loads a ViT checkpoint
# there with a resampling of their own. A resize matrix made by torch.eye without device= lies on meta, and the patch kernel
# multiplied with it loads strictly, with every shape right and no value right. A mistake in device= elsewhere raises.
#
# Output seen (torch 2.13.0, Python 3.11):
#   sum: RuntimeError
#   product: cpu torch.float32 (2, 3)
#   kernel times basis: cpu torch.float32 (8, 9)
# Exits 0 while torch does this, 1 if it no longer does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch


def told(name, compute):
    try:
        result = compute()
    except RuntimeError as error:
        print(f"{name}: {type(error).__name__}")
        return None
    print(f"{name}: {result.device} {result.dtype} {tuple(result.shape)}")
    return str(result.device)


print("torch", torch.__version__)
ones = torch.ones(2, 4)
total = told("sum", lambda: ones + torch.ones(2, 4, device="meta"))
product = told("product", lambda: ones @ torch.ones(4, 3, device="meta"))
kernel = torch.ones(8, 9)
torch.set_default_device("meta")
resampled = told("kernel times basis", lambda: kernel @ torch.eye(9))
sys.exit(0 if (total, product, resampled) == (None, "cpu", "cpu") else 1)
PYTHON
