"""Writes checkpoints and model options as short plain Python code."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.wrappers import beside
from ..families.base import PIXELS

WIDTH = 118
_CASTS = {"float16": "half", "bfloat16": "bfloat16", "float64": "double"}
# Largest number of entries of a dict that get a line each. More are grouped by the beginning of their names.
_A_LINE_EACH = 16
# Largest number of integers that are written one by one.
_SPELLED_OUT = 100
# Options that are never left out: their defaults make a model large, or the model's attributes do not show them.
_KEPT = frozenset({"embed_dim", "depth", "depths", "num_heads", "mlp_ratio", "num_classes", "embed_layer"})


def checkpoint(state: Mapping[str, Tensor], dtype: str, in_order: bool = False) -> str:
    """Code that makes a ``checkpoint`` with the names and shapes of ``state``, with other numbers of the same kind.

    A tensor of one value keeps it. Integers are written out unless there are many. Everything else is drawn from a normal
    distribution. Names with the same beginning may be grouped, except with ``in_order``.
    """
    drawn = {name: _draw_code(tensor, name) for name, tensor in state.items()}
    lines = ["torch.manual_seed(0)"]
    if in_order or len(state) <= _A_LINE_EACH:
        lines += ["checkpoint = {", *(f'    "{name}": {code},' for name, code in drawn.items()), "}"]
    else:
        lines += _by_prefix({name: tuple(tensor.shape) for name, tensor in state.items()})
        special = {n: code for n, code in drawn.items() if not code.startswith("torch.randn")}
        lines += [f'checkpoint["{name}"] = {code}' for name, code in special.items()]
    if dtype in _CASTS:
        cast = f"v.{_CASTS[dtype]}() if v.is_floating_point() else v"
        lines.append(f"checkpoint = {{k: {cast} for k, v in checkpoint.items()}}")
    return "\n".join(lines)


def as_saved(entry: tuple[str, ...], prefix: str) -> list[str]:
    """Lines that make of ``checkpoint`` what a training script saves (``Case.saved``); none for the checkpoint itself.

    ``tensors`` is then its dict of tensors.
    """
    if not entry and not prefix:
        return []
    lines = [f'checkpoint = {{f"{prefix}{{k}}": v for k, v in checkpoint.items()}}'] if prefix else []
    lines += ["tensors = checkpoint"]
    for depth, name in reversed(list(enumerate(entry))):
        empty, passed_over = ([], []) if depth else beside(name)
        others = [f'"{other}": None' for other in empty] + [f'"{other}": trained' for other in passed_over]
        lines += ["trained = {k: v + 1 for k, v in tensors.items()}"] if passed_over else []
        held = ", ".join([*others, f'"{name}": checkpoint'])
        lines.append(f"checkpoint = {{{held}}}")
    return lines


def _draw_code(tensor: Tensor, name: str) -> str:
    shape = tuple(tensor.shape)
    sizes = ", ".join(map(str, shape)) or "()"
    if not tensor.is_floating_point() and tensor.numel() > _SPELLED_OUT:  # an index, which loaders compute themselves
        return f"torch.zeros({sizes}, dtype={tensor.dtype})"
    if not tensor.is_floating_point():
        before = len(f'checkpoint["{name}"] = ')
        return "\n    ".join(textwrap.wrap(f"torch.tensor({tensor.tolist()})", WIDTH - before))
    if name.endswith("running_var"):
        return f"torch.rand({sizes}) + 0.5"
    values = tensor.unique()
    if tensor.numel() > 1 and len(values) == 1:
        value = round(float(values), 4)
        return f"torch.zeros({sizes})" if value == 0 else f"torch.full({shape}, {value})"
    return f"torch.randn({sizes})"


def _by_prefix(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Code lines for shapes grouped by the beginning of their names, and for the checkpoint made from them."""
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(_common_prefix(name), []).append(name)
    lines = ["shapes = {"]
    for prefix, names in groups.items():
        body = wrapped(", ".join(f'"{name.removeprefix(prefix)}": {shapes[name]}' for name in names), WIDTH - 8)
        if len(body) == 1 and len(prefix) + len(body[0]) < WIDTH - 12:
            lines.append(f'    "{prefix}": {{{body[0]}}},')
        else:
            lines += [f'    "{prefix}": {{', *(f"        {line}" for line in body), "    },"]
    draw = "torch.randn(shape) for prefix, some in shapes.items() for name, shape in some.items()"
    return [*lines, "}", f"checkpoint = {{prefix + name: {draw}}}"]


def _common_prefix(name: str) -> str:
    """The beginning of a name up to and including its block number; empty without one."""
    numbered = re.match(r".*?[._]\d+[./]", name)
    return numbered.group() if numbered else ""


def wrapped(items: str, width: int = WIDTH - 4) -> list[str]:
    """Code of comma-separated items, split into lines of at most ``width`` between the outermost items."""
    lines, depth = [""], 0
    for part in re.split(r"(?<=,) ", items):
        if depth == 0 and lines[-1] and len(lines[-1]) + len(part) + 1 > width:
            lines.append(part)
        else:
            lines[-1] += f" {part}" if lines[-1] else part
        depth += sum(part.count(c) for c in "([{") - sum(part.count(c) for c in ")]}")
    return lines


def evaluate(code: str) -> dict[str, Tensor]:
    """Run such code and return its ``checkpoint``."""
    scope: dict[str, Any] = {"torch": torch}
    exec(code, scope)
    return scope["checkpoint"]


def size(name: str, pair: tuple[int, int]) -> str:
    """Code for a size: one number if it is that of a square patch or image."""
    return str(pair[0]) if name in PIXELS and pair[0] == pair[1] else f"({pair[0]}, {pair[1]})"


class Names:
    """The objects to which a script refers, with the imports and functions that they need."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.functions: list[str] = []

    def value(self, value: Any) -> str:
        """Code for an option's value. Raises :class:`TypeError` for a value that cannot be imported by a name."""
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
            return self._partial(value[0], value[1])
        if isinstance(value, functools.partial):
            return self._partial(value.func, value.keywords)
        if isinstance(value, str) and ":" in value:
            return self.imported(*value.split(":"))
        if isinstance(value, type) and issubclass(value, nn.Module):
            name = value.__name__
            if getattr(nn, name, None) is value:
                return f"torch.nn.{name}"
            return self.imported(value.__module__, value.__name__)
        if isinstance(value, (bool, int, float, str, type(None), tuple, list)):
            return repr(value).replace("'", '"')
        raise TypeError(f"{value!r} cannot be written as code")

    def _partial(self, function: Any, keywords: Mapping[str, Any]) -> str:
        self.imports.add("from functools import partial")
        named = "".join(f", {k}={self.value(v)}" for k, v in keywords.items())
        return f"partial({self.value(function)}{named})"

    def imported(self, module: str, name: str) -> str:
        """``name`` of ``module``, imported. A function of the suite is written out; the reference is imported."""
        if module.startswith("timm_conformance.") and not module.startswith("timm_conformance.reference"):
            self.functions.append(_source(getattr(importlib.import_module(module), name)))
            self.imports |= {"from functools import partial", "from torch import nn"}
            return name
        self.imports.add(f"from {module} import {name}")
        return name

    def options(self, options: Mapping[str, Any]) -> list[str]:
        """Code lines that make a dict ``options``."""
        body = wrapped(", ".join(f'"{k}": {self.value(v)}' for k, v in options.items()), WIDTH - 14)
        return [f"options = {{{body[0]}}}"] if len(body) == 1 else ["options = {", *(f"    {x}" for x in body), "}"]


def _source(function: Callable) -> str:
    """A function's code without its docstring, which it must have, and without annotations."""
    (tree,) = ast.parse(inspect.getsource(function)).body
    assert isinstance(tree, ast.FunctionDef)
    tree.returns, tree.body = None, tree.body[1:]
    for argument in (*tree.args.args, *filter(None, [tree.args.kwarg])):
        argument.annotation = None
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent=" " * 8) for line in ast.unparse(tree).splitlines())


def minimal_options(build: Callable[[dict[str, Any]], nn.Module], options: dict[str, Any]) -> dict[str, Any]:
    """The options that change the model: those that equal the model's defaults are left out."""
    try:
        whole = _signature(build(options))
    except Exception:  # a model that cannot be built may be the bug itself
        return options
    for name in [n for n in options if n not in _KEPT]:
        rest = {k: v for k, v in options.items() if k != name}
        try:
            same = _signature(build(rest)) == whole
        except Exception:
            continue
        if same:
            options = rest
    return options


def _signature(model: nn.Module) -> list:
    """What distinguishes two models: shapes of tensors, types of modules, and the plain attributes of modules."""
    plain = (bool, int, float, str, tuple, type(None))
    found: list = [(k, tuple(v.shape)) for k, v in model.state_dict().items()]
    for name, module in model.named_modules():
        attributes = {k: v for k, v in vars(module).items() if isinstance(v, plain)}
        found.append((name, type(module).__qualname__, sorted(attributes.items(), key=lambda item: item[0])))
    return found
