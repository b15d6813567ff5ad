"""State dicts that are nearly checkpoints: tensors of a case, some of them dropped, renamed, reshaped, cast or nested."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from timm_conformance.cases.case import Case
from timm_conformance.checkpoints import state_dicts, wrappers
from timm_conformance.families import FAMILIES
from timm_conformance.reference.entries import WRAPPERS

Draw = st.DrawFn
State = dict[Any, Any]

_DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.uint16,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e8m0fnu,
)
_SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 64, 1000])
_HUGE = (2**20, 2**31, 2**40)
_NO_TENSORS = (None, 3, 0.5, "weights", b"weights", [1.0], (), {}, torch.Size([2]), torch.float16)
_NAMES = (
    "head",
    "pos_embed",
    "patch_embed.proj.weight",
    "cls_token",
    "blocks.0",
    "blocks.99999999",
    "module.",
    "visual.",
)


def is_dense(value: object) -> bool:
    """Whether a value is a tensor with nothing special about how it holds its numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_nested or value.is_quantized or value.is_meta or value.is_conj())


@dataclass(frozen=True)
class Pool:
    """The cases that inputs are made of: their own, and ``others`` whose tensors get among theirs."""

    cases: Sequence[Case]
    others: Sequence[Case]


def tensors_of(case: Case, foreign: bool) -> State:
    """The upstream tensors of a case, text tower and all where there is one."""
    family = FAMILIES[case.family]
    beside = state_dicts.foreign(family, case) if foreign else {}
    return beside | state_dicts.encode(family, case, state_dicts.truth(family, case))


@st.composite
def mutated(draw: Draw, case: Case, pool: Pool) -> State:
    """The checkpoint of a case, changed in up to four ways and wrapped somehow."""
    state = tensors_of(case, draw(st.booleans()))
    for _ in range(draw(st.integers(0, 4), label="changes")):
        if not state:
            break
        key = draw(st.sampled_from(list(state)), label="tensor")
        change = draw(st.sampled_from((*_CHANGES, "borrow")), label="change")
        if change == "borrow":
            state |= tensors_of(draw(st.sampled_from(pool.others)), foreign=False)
        else:
            change(draw, state, key)
    return draw(nested(case, state))


@st.composite
def nested(draw: Draw, case: Case, state: State) -> State:
    """``state`` wrapped as its family is, or oddly."""
    how = draw(st.sampled_from(["family", "family", "twice", "halves", "loop", "deep"]), label="nesting")
    wrapper = draw(st.sampled_from(WRAPPERS), label="wrapper")
    if how == "family" and all(isinstance(k, str) and is_dense(v) for k, v in state.items()):
        return wrappers.wrap(state, case.wrapper)
    if how == "twice":
        return {wrapper: state, "state_dict": dict(state), "epoch": 3}
    if how == "halves":
        names = list(state)
        return {wrapper: {k: state[k] for k in names[::2]}} | {k: state[k] for k in names[1::2]}
    if how == "loop":
        state[wrapper] = state
    elif how == "deep":
        for _ in range(draw(st.sampled_from([1, 8, 9, 200]), label="depth")):
            state = {wrapper: state}
    return state


# -- changes: each takes the way to draw, the state to change, and the key to change it at ------------------------------


def _drop(draw: Draw, state: State, key: Any) -> None:
    del state[key]


def _drop_alike(draw: Draw, state: State, key: Any) -> None:
    """All tensors of one block, or of one name in all blocks."""
    part = draw(st.sampled_from(str(key).split(".")))
    for other in [k for k in state if part in str(k).split(".")]:
        del state[other]


def _rename(draw: Draw, state: State, key: Any) -> None:
    new = draw(st.one_of(st.sampled_from(_NAMES), st.sampled_from([str(k) for k in state]), st.text(max_size=12)))
    text = str(key)
    whole = draw(st.sampled_from([new, new + text, text + new, text.replace("0", "1"), text.rpartition(".")[0]]))
    state[whole] = state.pop(key)


def _odd_key(draw: Draw, state: State, key: Any) -> None:
    state[draw(st.sampled_from([None, 0, 1.5, (1, 2), b"head.weight", True]))] = state.pop(key)


def _no_tensor(draw: Draw, state: State, key: Any) -> None:
    state[key] = draw(st.sampled_from(_NO_TENSORS))


def _swap(draw: Draw, state: State, key: Any) -> None:
    other = draw(st.sampled_from(list(state)))
    state[key], state[other] = state[other], state[key]


def _tensor(change: Callable[[Draw, Tensor], Any]) -> Callable[[Draw, State, Any], None]:
    """The change of one tensor; left as it is where torch cannot make it, or another change has put something else."""

    def apply(draw: Draw, state: State, key: Any) -> None:
        if isinstance(state[key], Tensor):
            with contextlib.suppress(RuntimeError, TypeError):
                state[key] = change(draw, state[key])

    apply.__name__ = change.__name__
    return apply


def _plain(tensor: Tensor) -> Tensor:
    """A dense tensor with data, whatever an earlier change made of it."""
    return tensor.detach() if is_dense(tensor) and tensor.numel() < 10**6 else torch.zeros(2, 3)


def _reshape(draw: Draw, tensor: Tensor) -> Tensor:
    tensor = _plain(tensor)
    how = draw(st.sampled_from(["flat", "front", "back", "scalar", "transposed", "halved"]))
    if how == "scalar" or not tensor.ndim:
        return torch.zeros((), dtype=tensor.dtype)
    if how == "transposed":
        return tensor.transpose(draw(st.integers(0, tensor.ndim - 1)), -1)
    if how == "halved":
        return tensor.unflatten(-1, (2, -1)) if tensor.shape[-1] and tensor.shape[-1] % 2 == 0 else tensor[None, None]
    return {"flat": tensor.flatten(), "front": tensor[None], "back": tensor[..., None]}[how]


def _resize(draw: Draw, tensor: Tensor) -> Tensor:
    """One axis of another length, or all of them and as many as may be."""
    if draw(st.booleans()) and tensor.ndim:
        shape = list(tensor.shape)
        shape[draw(st.integers(0, tensor.ndim - 1))] = draw(_SIZES)
    else:
        shape = draw(st.lists(_SIZES, max_size=5))
    size = 1
    for side in shape:
        size *= side
    return torch.zeros(shape if size < 10**6 else shape[:1], dtype=tensor.dtype)


def _huge_and_empty(draw: Draw, tensor: Tensor) -> Tensor:
    shape = [max(n, 1) for n in _plain(tensor).shape]
    shape = [*shape, 1, 1][: max(len(shape), 2)]
    axes = draw(st.permutations(range(len(shape))))
    shape[axes[0]], shape[axes[1]] = 0, draw(st.sampled_from(_HUGE))
    return torch.zeros(shape)


def _blown_up(draw: Draw, tensor: Tensor) -> Tensor:
    shape = list(_plain(tensor).shape) or [1]
    shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from(_HUGE))
    return torch.zeros(()).expand(shape)


def _cast(draw: Draw, tensor: Tensor) -> Tensor:
    return _plain(tensor).to(draw(st.sampled_from(_DTYPES)))


def _no_number(draw: Draw, tensor: Tensor) -> Tensor:
    tensor = _plain(tensor).clone()
    return tensor.fill_(draw(st.sampled_from([float("nan"), float("inf")]))) if tensor.is_floating_point() else tensor


def _special(draw: Draw, tensor: Tensor) -> Tensor:
    tensor = _plain(tensor).float()
    how = draw(st.sampled_from(["sparse", "meta", "quantized", "nested", "conjugate", "parameter", "csr"]))
    if how == "quantized":
        return torch.quantize_per_tensor(tensor, 1.0, 0, torch.qint8)
    if how == "csr":
        return torch.zeros(3, 4).to_sparse_csr()
    return {
        "sparse": tensor.to_sparse,
        "meta": lambda: tensor.to("meta"),
        "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "conjugate": lambda: tensor.to(torch.complex64).conj(),
        "parameter": lambda: nn.Parameter(tensor),
    }[how]()


_CHANGES = (
    _drop,
    _drop_alike,
    _rename,
    _odd_key,
    _no_tensor,
    _swap,
    *map(_tensor, (_reshape, _resize, _resize, _huge_and_empty, _blown_up, _cast, _no_number, _special)),
)
