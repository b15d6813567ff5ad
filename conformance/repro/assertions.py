"""What a script looks at after the load, by the kind of failure: that it loads, a tensor's numbers, an output, manners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, log10
from typing import Any

import torch
from torch import Tensor

from . import source_code
from .script import Look
from .scriptable_case import Deviation

# Numbers a script shows of a tensor.
_SHOWN = 16

LOADS = Look('"the model loads the checkpoint"')


def values(deviation: Deviation, given: Mapping[str, Any], state: str) -> Look:
    """The tensor of a deviation, in the dict that ``state`` names: what the reference makes of it.

    Where that is a tensor of the checkpoint in another shape, the script says so; else it shows the numbers around the
    worst element.
    """
    name, want = deviation.tensor, deviation.want
    source = _same_numbers(want, given)
    if source is not None:
        lines = [f'found = {state}["{name}"]', "bug = not torch.equal(found, want.to(found))"]
        told = 'f"other numbers, off by {float((found - want.to(found)).abs().max()):.3g}" if bug else expected'
        return Look(f"'{name} is {source}'", [*lines, f"got = {told}"], [f"want = {source}"])
    where = _around(torch.unravel_index(torch.tensor(deviation.worst), want.shape), want)
    numbers = want[where].double().flatten()
    return _numbers(f"{name}{_index(where)}", f'{state}["{name}"]{_index(where)}', numbers, deviation)


def output(want: Tensor, got: Tensor, shape: Sequence[int], bound: float) -> Look:
    """The model's output on an image, in float64: what the upstream model computes from the same tensors.

    ``want`` and ``got`` ``(numbers,)``; ``shape`` is the image's.
    """
    error = (got - want).abs().nan_to_num(float("inf"))
    worst = int(error.argmax())
    want = want[worst - worst % _SHOWN :][:_SHOWN] if want.numel() > _SHOWN else want
    part = "" if want.numel() < _SHOWN else f"[{worst - worst % _SHOWN}:][:{_SHOWN}]"
    deviation = Deviation("value", "output", error=float(error[worst]), bound=bound)
    look = _numbers("output", f"model.double().eval()(image).flatten(){part}", want, deviation)
    size = ", ".join(map(str, shape))
    before = ["torch.manual_seed(1)", f"image = torch.randn({size}, dtype=torch.float64)", *look.before]
    lines = ["with torch.inference_mode():", f"    {look.lines[0]}", *look.lines[1:]]
    return Look(look.expected, lines, before)


def forward(shape: Sequence[int]) -> Look:
    """That the model runs at all on an image of a shape."""
    size = ", ".join(map(str, shape))
    return Look('"the model runs"', [f"model(torch.randn({size}))", "got, bug = expected, False"])


def image(shape: Sequence[int]) -> Tensor:
    """The image that such a script looks at."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _numbers(title: str, expression: str, want: Tensor, deviation: Deviation) -> Look:
    """A few numbers, compared within a tolerance above rounding and well below what is seen."""
    usual = 1e-3 * (1 + float(want.abs().max()))
    tolerance = max(2 * deviation.bound, min(usual, deviation.error / 3))
    digits = max(1, ceil(-log10(tolerance)) + 1)
    tolerance = float(f"{tolerance:.1g}")
    listed = f"[{', '.join(f'{x:.{digits}f}' for x in want.tolist())}]"
    lines = [
        f"found = {expression}.double().flatten()",
        f"bug = not torch.allclose(found, want, rtol=0, atol={tolerance:g})",
        f'got = f"{title} = {{[round(x, {digits}) for x in found.tolist()]}}"',
    ]
    made = f"want = torch.tensor({listed}, dtype=torch.float64)"
    if len(made) > source_code.WIDTH:
        made = f"want = torch.tensor(\n    {listed},\n    dtype=torch.float64,\n)"
    return Look(f'f"{title} = {{want.tolist()}}"', lines, [made])


def _around(index: tuple[Tensor, ...], tensor: Tensor) -> tuple:
    """The worst element with as many along the axes around it as can be shown: a patch, a column of positions."""
    where: list[Any] = [int(i) for i in index]
    axes = {
        4: (3, 2) if tensor.shape[0] > 1 else (2, 1),
        3: (1,),
        2: (0,) if tensor.shape[0] <= _SHOWN else (1,),
        1: (0,),
    }
    shown = 1
    for axis in axes.get(tensor.ndim, ()):
        if shown * tensor.shape[axis] <= _SHOWN:
            where[axis] = slice(None)
            shown *= tensor.shape[axis]
    return tuple(where)


def _index(where: tuple) -> str:
    return f"[{', '.join(':' if isinstance(i, slice) else str(i) for i in where)}]" if where else ""


def _same_numbers(want: Tensor, given: Mapping[str, Any]) -> str | None:
    """The code that makes ``want`` of one tensor of the checkpoint without computing anything, or None."""
    found = dict(_leaves(given, "checkpoint"))
    for path, tensor in found.items():
        if tensor.numel() != want.numel() or want.numel() == 1:
            continue
        shape = ", ".join(map(str, want.shape))
        for change in ("", ".T") if tensor.ndim == 2 else ("",):
            moved = tensor.T if change else tensor
            if torch.equal(moved.reshape(want.shape).to(want.dtype), want):
                return f"{path}{change}" + ("" if moved.shape == want.shape else f".reshape({shape})")
    return None


def _leaves(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in tree.items():
        if isinstance(value, Tensor):
            yield f'{path}["{key}"]', value
        else:
            yield from _leaves(value, f'{path}["{key}"]')


# -- manners -----------------------------------------------------------------------------------------------------------

_FLAT = """\
def flat(tree):
    items = [(flat(v) if isinstance(v, dict) else {k: v}).items() for k, v in tree.items()]
    return {k: v for some in items for k, v in some}"""
_DIFFERING = """\
def differing(a, b):
    return [k for k in {**a, **b} if k not in a or k not in b or not torch.equal(a[k], b[k])]"""


MANNERS = ("input-unmodified", "repeatable", "idempotent", "dtype-kept", "device-kept")


def manners(invariant: str, convert: Callable[[str], str], dtype: str, destination: Sequence[int]) -> Look:
    """The look of one of the invariants about what a load does beside loading.

    ``convert`` gives the code that converts what an expression names, ``destination`` the model's ``(channels, height,
    width)``.
    """
    if invariant == "input-unmodified":
        before = ["before = {k: v.clone() for k, v in flat(checkpoint).items()}"]
        lines = [
            "after = flat(checkpoint)",
            "wrong = differing(before, after)",
            "bug = bool(wrong) or list(before) != list(after)",
            "got = f\"it has changed: {wrong or 'the order of its keys'}\" if bug else expected",
        ]
        return Look('"the caller\'s checkpoint is as it was"', lines, before, [_FLAT, _DIFFERING])
    if invariant == "repeatable":
        return _again("a second time", convert("checkpoint"))
    if invariant == "idempotent":
        declare = f'model.pretrained_cfg = {{"input_size": {tuple(destination)}}}'
        return _again("again, out of what came of it", convert("dict(state)"), declare)
    if invariant == "dtype-kept":
        lines = [
            f"wrong = {{k: v.dtype for k, v in state.items() if v.is_floating_point() and v.dtype != torch.{dtype}}}",
            "bug, got = bool(wrong), str(wrong) if wrong else expected",
        ]
        return Look(f'"every tensor is torch.{dtype}, as in the checkpoint"', lines)
    lines = [
        'wrong = {k: v.device for k, v in state.items() if v.device.type != "meta"}',
        "bug, got = bool(wrong), str(wrong) if wrong else expected",
    ]
    before = ['checkpoint, model = {k: v.to("meta") for k, v in checkpoint.items()}, model.to("meta")']
    return Look('"every tensor is on the meta device, as the checkpoint is"', lines, before)


def _again(how: str, convert: str, *between: str) -> Look:
    lines = [
        "first = {k: v.clone() for k, v in state.items()}",
        *between,
        f"wrong = differing(first, {convert})",
        'bug, got = bool(wrong), f"{wrong} differ" if wrong else expected',
    ]
    return Look(f'"the same, loaded {how}"', lines, functions=[_DIFFERING])


# -- refusals ----------------------------------------------------------------------------------------------------------


def refused(damage: str) -> Look:
    """That a checkpoint with some damage does not load."""
    expected = f"an exception, since {damage}".replace('"', "'")
    return Look(f'"{expected}"', ['got, bug = "a model, and no exception", True'], raised="False")


def untouched(damage: str, model: bool) -> Look:
    """That an exception leaves the model as it was before the load, or else the caller's checkpoint."""
    subject = "model.state_dict()" if model else "flat(checkpoint)"
    before = [f"before = {{k: v.clone() for k, v in {subject}.items()}}"]
    after = [
        f"wrong = differing(before, {subject})",
        'bug, got = bool(wrong), f"{got}; by then {wrong} have changed" if wrong else expected',
    ]
    what = "the model" if model else "the checkpoint"
    expected = f"{damage}: {what} is as it was before".replace('"', "'")
    functions = [_DIFFERING] if model else [_FLAT, _DIFFERING]
    return Look(f'"{expected}"', ['got = "no exception"'], before, functions, "False", after)
