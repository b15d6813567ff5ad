"""Invariants of attention tensors: rotary buffers, which are no parameters, and projections that are fused or separate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from msgspec.structs import replace
from torch import Tensor

from ..checkpoints import wrappers
from ..trials.problems import Problem, exact_differences
from ..trials.trial import Trial
from .registry import both, few_blocks, invariant, unless

# Buffers of rotary embeddings, of a block or of the whole model. timm's own `rope.freqs` is a learnt parameter.
_ROPE = re.compile(r"(^|.*\.)rope(_embed)?\.(?!freqs$).+")


def _rope_buffers(trial: Trial) -> list[str]:
    return [key for key in trial.upstream if _ROPE.fullmatch(key)]


@invariant(
    statement=(
        "Buffers of rotary position embeddings in a checkpoint, whatever they hold and whether there or not, change nothing."
    ),
    catches="buffers of another grid passed on to a strict load, or mistaken for parameters.",
    regimes=("native", "resampled"),
    applies=both(unless(lambda t: bool(_rope_buffers(t)), "the checkpoint holds no rotary buffers"), few_blocks),
)
def rope_buffers_ignored(trial: Trial) -> Iterator[Problem]:
    base, buffers = trial.state, set(_rope_buffers(trial))
    yield from (
        Problem("rope-buffer-kept", key, f"{key} is a buffer, and was loaded") for key in base if key in buffers
    )
    spoilt = {k: torch.full_like(v, float("nan")) if k in buffers else v for k, v in trial.upstream.items()}
    without = {k: v for k, v in trial.upstream.items() if k not in buffers}
    for doing, state in (("with other rotary buffers", spoilt), ("without rotary buffers", without)):
        other = trial.convert(trial.to_device(wrappers.wrap(state, trial.case.wrapper)))
        if not other.ok:
            yield other.problem(f"loading {doing}")
        else:
            yield from exact_differences(base, other.state)


_FUSED = re.compile(r"(.*\battn\.)(qkv\.weight|q_bias|v_bias)")
_PARTS = ("q_proj", "k_proj", "v_proj")


def _split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model with one fused projection as that of a model with three."""
    out = {}
    for key, tensor in state.items():
        found = _FUSED.fullmatch(key)
        if found is None:
            out[key] = tensor
        elif found[2] == "qkv.weight":
            out |= {f"{found[1]}{part}.weight": piece for part, piece in zip(_PARTS, tensor.chunk(3))}
        else:
            out[f"{found[1]}{found[2][0]}_proj.bias"] = tensor
    return out


def _fuse_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`_split_qkv`."""
    out = {}
    for key, tensor in state.items():
        if key.endswith("attn.q_proj.weight"):
            block = key.removesuffix("q_proj.weight")
            out[f"{block}qkv.weight"] = torch.cat([state[f"{block}{part}.weight"].cpu() for part in _PARTS])
        elif key.endswith(("attn.q_proj.bias", "attn.v_proj.bias")):
            out[key.replace("_proj.bias", "_bias")] = tensor
        elif not key.endswith(("attn.k_proj.weight", "attn.v_proj.weight")):
            out[key] = tensor
    return out


def _has_two_forms(trial: Trial) -> str | None:
    if "qkv_fused" not in trial.case.arch:
        return "the format stores the projections in one way only"
    return trial.loader.unsupported(trial.family, _other_form(trial).case)


def _other_form(trial: Trial) -> Trial:
    arch = {**trial.case.arch, "qkv_fused": not trial.case.arch["qkv_fused"]}
    return Trial(trial.family, replace(trial.case, arch=arch), trial.loader, trial.device)


@invariant(
    statement=(
        "The same attention, stored as one fused projection or as three, loads into a model of the same form as the same "
        "numbers, biases included."
    ),
    catches="q, k and v fused or split in another order, a bias that one form loses, a rename that hits one form only.",
    regimes=("native", "resampled", "half-precision"),
    applies=_has_two_forms,
)
def qkv_forms_agree(trial: Trial) -> Iterator[Problem]:
    fused, base = trial.case.arch["qkv_fused"], trial.state
    other = _other_form(trial).load(_split_qkv(trial.truth) if fused else _fuse_qkv(trial.truth))
    if not other.ok:
        yield other.problem("loading the other form")
        return
    yield from (
        exact_differences(base, _fuse_qkv(other.state)) if fused else exact_differences(_fuse_qkv(base), other.state)
    )
