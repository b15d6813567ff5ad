"""What a script asserts after the load, for each kind of failure: that it loads, numbers of a tensor, an output, side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, log10
from typing import Any

import torch
from torch import Tensor

from ..trials.ambient import CODE
from . import source_code
from .script import Assertion
from .scriptable_case import Deviation

# Largest number of a tensor's elements that a script shows.
_SHOWN = 16

LOADS = Assertion('"the model loads the checkpoint"')


def values(deviation: Deviation, given: Mapping[str, Any], state: str) -> Assertion:
    """That the tensor of a deviation is the reference's. ``state`` is code for the dict that holds it.

    If the reference's tensor is a tensor of the checkpoint in another shape, the script says so. Otherwise it shows the numbers
    around the worst element.
    """
    name, want = deviation.tensor, deviation.want
    assert want is not None  # the kind is value
    source = _same_numbers(want, given)
    if source is not None:
        lines = [f'found = {state}["{name}"]', "bug = not torch.equal(found, want.to(found))"]
        told = 'f"other numbers, off by {float((found - want.to(found)).abs().max()):.3g}" if bug else expected'
        expected = f"'{name} is {source}'"
        if (
            len(expected) > source_code.WIDTH and source == f'checkpoint["{name}"]'
        ):  # the name once, where twice is too wide
            expected = f'"{name} is the checkpoint\'s"'
        return Assertion(expected, [*lines, f"got = {told}"], [f"want = {source}"])
    where = _around(torch.unravel_index(torch.tensor(deviation.worst), want.shape), want)
    numbers = want[where].double().flatten()
    return _numbers(f"{name}{_index(where)}", f'{state}["{name}"]{_index(where)}', numbers, deviation)


def output(want: Tensor, got: Tensor, shape: Sequence[int], bound: float) -> Assertion:
    """That the model's output on an image, in float64, is what the upstream model computes from the same tensors.

    ``want`` and ``got`` are flat, ``(numbers,)``. ``shape`` is the image's.
    """
    error = (got - want).abs().nan_to_num(float("inf"))
    worst = int(error.argmax())
    want = want[worst - worst % _SHOWN :][:_SHOWN] if want.numel() > _SHOWN else want
    part = "" if want.numel() < _SHOWN else f"[{worst - worst % _SHOWN}:][:{_SHOWN}]"
    deviation = Deviation("value", "output", error=float(error[worst]), bound=bound)
    assertion = _numbers("output", f"model.double().eval()(image).flatten(){part}", want, deviation)
    size = ", ".join(map(str, shape))
    before = ["torch.manual_seed(1)", f"image = torch.randn({size}, dtype=torch.float64)", *assertion.before]
    lines = ["with torch.inference_mode():", f"    {assertion.lines[0]}", *assertion.lines[1:]]
    return Assertion(assertion.expected, lines, before)


def forward(shape: Sequence[int]) -> Assertion:
    """That the model runs on an image of this shape."""
    size = ", ".join(map(str, shape))
    return Assertion('"the model runs"', [f"model(torch.randn({size}))", "got, bug = expected, False"])


def image(shape: Sequence[int]) -> Tensor:
    """The image, in float64, on which such a script runs the model."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _numbers(title: str, expression: str, want: Tensor, deviation: Deviation) -> Assertion:
    """That a few numbers are right, within a tolerance above rounding and well below the deviation."""
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
    return Assertion(f'f"{title} = {{want.tolist()}}"', lines, [made])


def _around(index: tuple[Tensor, ...], tensor: Tensor) -> tuple:
    """Index of the worst element and of as many neighbours along its axes as can be shown: a patch, a column of positions."""
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
    """Code for ``want`` as one tensor of the checkpoint, at most transposed or reshaped; None if there is no such tensor."""
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


# -- side effects ------------------------------------------------------------------------------------------------------

_FLAT = """\
def flat(tree):
    items = [(flat(v) if isinstance(v, dict) else {k: v}).items() for k, v in tree.items()]
    return {k: v for some in items for k, v in some}"""
_DIFFERING = """\
def differing(a, b):
    return [k for k in {**a, **b} if k not in a or k not in b or not torch.equal(a[k], b[k])]"""


SIDE_EFFECTS = ("input-unmodified", "repeatable", "idempotent", "dtype-kept", "device-kept")


def side_effect(invariant: str, convert: Callable[[str], str], dtype: str, destination: Sequence[int]) -> Assertion:
    """The assertion of an invariant about side effects of a load.

    ``convert`` makes the code that converts the checkpoint of an expression. ``destination`` is the model's ``(channels,
    height, width)``.
    """
    if invariant == "input-unmodified":
        before = ["before = {k: v.clone() for k, v in flat(checkpoint).items()}"]
        lines = [
            "after = flat(checkpoint)",
            "wrong = differing(before, after)",
            "bug = bool(wrong) or list(before) != list(after)",
            "got = f\"it has changed: {wrong or 'the order of its keys'}\" if bug else expected",
        ]
        return Assertion('"the caller\'s checkpoint is as it was"', lines, before, [_FLAT, _DIFFERING])
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
        return Assertion(f'"every tensor is torch.{dtype}, as in the checkpoint"', lines)
    lines = [
        'wrong = {k: v.device for k, v in state.items() if v.device.type != "meta"}',
        "bug, got = bool(wrong), str(wrong) if wrong else expected",
    ]
    before = ['checkpoint, model = {k: v.to("meta") for k, v in checkpoint.items()}, model.to("meta")']
    return Assertion('"every tensor is on the meta device, as the checkpoint is"', lines, before)


def _again(how: str, convert: str, *between: str) -> Assertion:
    lines = [
        "first = {k: v.clone() for k, v in state.items()}",
        *between,
        f"wrong = differing(first, {convert})",
        'bug, got = bool(wrong), f"{wrong} differ" if wrong else expected',
    ]
    return Assertion(f'"the same, loaded {how}"', lines, functions=[_DIFFERING])


# -- ambient states ----------------------------------------------------------------------------------------------------

_DEVIATING = """\
def deviating(a, b):
    kept = {k for k in a if k in b and (b[k].dtype, b[k].device) == (a[k].dtype, a[k].device)}
    return [k for k in a if k not in kept or not torch.allclose(a[k], b[k], atol=1e-5)]"""


def ambient_state(state: str, convert: Callable[[str], str]) -> Assertion:
    """The assertion that a second load, in an ambient state, gives what the first gave. ``convert`` is :func:`side_effect`'s."""
    enter, leave = CODE[state]
    load = f"inside = {convert('again')}"
    within = [load] if leave else [f"with {enter}:", f"    {load}"]
    lines = [
        *([enter] if leave else []),
        "try:",
        *(f"    {line}" for line in within),
        "    wrong = deviating(state, inside)",
        '    bug, got = bool(wrong), f"{wrong} differ" if wrong else expected',
        "except Exception as error:",
        '    bug, got = True, f"{type(error).__name__}: {error}"',
        *(["finally:", f"    {leave}"] if leave else []),
    ]
    expected = f"the same, loaded inside {enter}".replace('"', "'")
    return Assertion(f'"{expected}"', lines, ["again = dict(checkpoint)"], [_DEVIATING])


# -- refusals ----------------------------------------------------------------------------------------------------------


def refused(damage: str) -> Assertion:
    """That a checkpoint with this damage does not load."""
    expected = f"an exception, since {damage}".replace('"', "'")
    return Assertion(f'"{expected}"', ['got, bug = "a model, and no exception", True'], raised="False")


def untouched(damage: str, model: bool) -> Assertion:
    """That an exception leaves the model (``model``) or else the caller's checkpoint as it was before the load."""
    subject = "model.state_dict()" if model else "flat(checkpoint)"
    before = [f"before = {{k: v.clone() for k, v in {subject}.items()}}"]
    after = [
        f"wrong = differing(before, {subject})",
        'bug, got = bool(wrong), f"{got}; by then {wrong} have changed" if wrong else expected',
    ]
    what = "the model" if model else "the checkpoint"
    expected = f"{damage}: {what} is as it was before".replace('"', "'")
    functions = [_DIFFERING] if model else [_FLAT, _DIFFERING]
    return Assertion(f'"{expected}"', ['got = "no exception"'], before, functions, "False", after)
