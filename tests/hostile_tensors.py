"""Checkpoint files that are whole, of what no loader can make weights of; and strange ones that are to be read."""

from __future__ import annotations

import argparse
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.hostile_files import HOSTILE, KERNEL, ODD, Call, changed, npz, odd, refused, saved, state

__all__ = ["HOSTILE", "ODD"]

# -- containers that are whole, of tensors that are no weights -------------------------------------------------------


@refused("holds a text model (token_embedding.weight) and no image encoder")
def text_model(folder: Path) -> Path:
    names = ("token_embedding.weight", "text_projection", "ln_final.weight", "ln_final.bias")
    return saved(folder, {name: torch.zeros(8, 8) for name in names})


@refused("unknown checkpoint format")
def another_model(folder: Path) -> Path:
    return saved(folder, {"conv1.weight": torch.zeros(8, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(8, 8, 3, 3)})


@refused("tensors with NaN or infinite values: norm.weight")
def nan(folder: Path) -> Path:
    return saved(folder, changed(norm=torch.tensor([1.0] * 7 + [float("nan")])))


@refused("tensors with NaN or infinite values: norm.weight")
def infinite(folder: Path) -> Path:
    return saved(folder, changed(norm=torch.full((8,), float("-inf"), dtype=torch.float16)))


@refused("tensors without values: pos_embed (1, 0, 8)")
def grid_of_size_zero(folder: Path) -> Path:
    return saved(folder, changed(pos_embed=torch.zeros(1, 0, 8)))


@refused("tensors without data, as on the meta device: patch_embed.proj.weight")
def meta_tensor(folder: Path) -> Path:
    return saved(folder, changed(kernel=torch.zeros(2**20, 2**20, 4, 4, device="meta")))


@refused("convert the others first: patch_embed.proj.weight (sparse_coo)")
def sparse_tensor(folder: Path) -> Path:
    return saved(folder, changed(kernel=state()[KERNEL].to_sparse()))


@refused("convert the others first: norm.weight (nested)")
def nested_tensor(folder: Path) -> Path:
    return saved(folder, changed(norm=torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])))


@refused("convert the others first: norm.weight (quantized)")
def quantized_tensor(folder: Path) -> Path:
    return saved(folder, changed(norm=torch.quantize_per_tensor(torch.zeros(8), 1.0, 0, torch.qint8)))


def _of_dtype(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")

    def writer(folder: Path) -> Path:
        return saved(folder, changed(kernel=torch.zeros(8, 3, 4, 4).to(dtype)))

    HOSTILE[f"{name}_weights"] = writer, f"convert the checkpoint first: {KERNEL} {name}"


for _dtype in (torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64):
    _of_dtype(_dtype)


@refused("missing: norm.weight")
def a_key_missing(folder: Path) -> Path:
    return saved(folder, {k: v for k, v in state().items() if k != "norm.weight"})


@refused("unexpected: blocks.0.attn.extra")
def a_key_more(folder: Path) -> Path:
    return saved(folder, state() | {"blocks.0.attn.extra": torch.zeros(8)})


@refused("norm.weight is (7,), the model has (8,)")
def wrong_width(folder: Path) -> Path:
    return saved(folder, changed(norm=torch.zeros(7)))


@refused("blocks.0.mlp.fc1.weight is (8, 16), the model has (16, 8)")
def weight_transposed(folder: Path) -> Path:
    name = "blocks.0.mlp.fc1.weight"
    return saved(folder, state() | {name: state()[name].T})


@refused("no state_dict in this checkpoint")
def dict_that_holds_itself(folder: Path) -> Path:
    content: dict[str, Any] = {}
    content |= dict.fromkeys(("model_ema", "model", "module", "state_dict", "encoder"), content)
    return saved(folder, content)


@refused("no state_dict in this checkpoint")
def dicts_that_double(folder: Path) -> Path:
    """A few bytes a level, twice as many paths through it."""
    content: dict[str, Any] = {}
    for _ in range(60):
        content = {"model": content, "state_dict": content}
    return saved(folder, content)


@refused("no state_dict in this checkpoint")
def wrappers_nested_deeply(folder: Path) -> Path:
    # By hand: Python's own pickler does not come this deep.
    deep = b"\x80\x02" + b"}X\x05\x00\x00\x00model" * 100_000 + b"}" + b"s" * 100_000 + b"."
    with zipfile.ZipFile(folder / "checkpoint.pth", "w") as archive:
        for name, content in {"data.pkl": deep, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{name}", content)
    return folder / "checkpoint.pth"


@refused("embedding.kernel")
def name_of_two_lines(folder: Path) -> Path:
    return saved(
        folder, state() | {"embedding.kernel\n\x1b[2JTraceback (most recent call last):\ud800": torch.zeros(1)}
    )


@refused("Transformer/encoderblock/LayerNorm_0/scale stacks 1099511627776 blocks")
def stack_of_blocks_without_end(folder: Path) -> Path:
    names = ("embedding/kernel", "Transformer/encoderblock/LayerNorm_0/scale")
    return npz(folder, {names[0]: np.zeros((4, 4, 3, 8), "f4"), names[1]: np.zeros((2**40, 0), "f4")})


# -- strange, and to be read -----------------------------------------------------------------------------------------


@odd
def old_pickle(folder: Path) -> Path:
    return saved(folder, state(), _use_new_zipfile_serialization=False)


@odd
def arguments_of_a_training_script(folder: Path) -> Path:
    return saved(folder, {"model": state(), "args": argparse.Namespace(lr=0.1), "epoch": 3})


@odd
def another_suffix(folder: Path) -> Path:
    save_file(state(), folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


@odd
def archive_without_checksums(folder: Path) -> Path:
    torch.serialization.set_crc32_options(False)
    try:
        return saved(folder, state())
    finally:
        torch.serialization.set_crc32_options(True)


@odd
def methods_hidden_by_attributes(folder: Path) -> Path:
    weight = torch.nn.Parameter(state()["norm.weight"])
    weight.numel = 3  # an attribute of a parameter is saved with it
    content = state() | {"norm.weight": weight}
    return saved(folder, {"model": Call(OrderedDict, attributes={"values": 3}, items=content)})


@odd
def nan_beside_the_encoder(folder: Path) -> Path:
    return saved(folder, {"model": state(), "optimizer": {"state": torch.tensor(float("nan"))}})


@odd
def views_of_one_storage(folder: Path) -> Path:
    whole = torch.zeros(10**6)
    return saved(folder, {k: whole[: v.numel()].view(v.shape) for k, v in state().items()})
