"""The functions of a target's loaders, and how a function is replaced by a changed copy of itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..families import FAMILIES
from ..targets.loader import Loader
from ..targets.models import Unsupported, model_class

_BODY = ("__code__", "__defaults__", "__kwdefaults__")
# create_model's own part, from the line with this text on: the classifier and whether the load is strict.
_FACTORY = ("timm.models._builder", "load_pretrained", "classifiers = pretrained_cfg")
# How timm finds and reads a file or folder.
_READING = (
    ("timm.models._builder", "_resolve_pretrained_source"),
    ("timm.models._helpers", "clean_state_dict"),
    ("timm.models._helpers", "load_state_dict"),
    ("timm.models._helpers", "load_checkpoint"),
    ("timm.models._hub", "load_state_dict_from_path"),
)
# Methods by which a model is resized in place or in its forward.
_RESIZING = re.compile(r"set_input_size|set_window_size|update_feat_shape|_pos_embed|_apply_\w+|resample_linear_weight")


@dataclass(frozen=True)
class Function:
    """A function of the loader, by the name ``module:function`` without its package.

    Only what follows the first line with the text ``mutated_from`` is mutated. A function ``if_run`` is mutated only if some
    case runs it: it may be a method of a class that no family has.
    """

    name: str
    function: FunctionType
    mutated_from: str = ""
    if_run: bool = False

    @property
    def source(self) -> str:
        """Its source, from the ``def`` on, not indented."""
        return self._written[0]

    @property
    def line(self) -> int:
        """The line of its ``def`` in the file."""
        return self._written[1]

    @property
    def first_mutated(self) -> int:
        """The line of the file from which on it is mutated."""
        return self.line + next(n for n, text in enumerate(self.source.splitlines()) if self.mutated_from in text)

    def is_run(self, lines: Collection[tuple[str, int]]) -> bool:
        """Whether some of these lines, each with its file, are its own."""
        file, last = self.function.__code__.co_filename, self.line + len(self.source.splitlines())
        return any((file, line) in lines for line in range(self.line + 1, last))

    @cached_property
    def _written(self) -> tuple[str, int]:
        lines, first = inspect.getsourcelines(self.function)
        decorators = ast.parse(textwrap.dedent("".join(lines))).body[0].lineno - 1
        return textwrap.dedent("".join(lines[decorators:])), first + decorators

    def compiled(self, source: str) -> FunctionType:
        """The function that changed ``source`` defines in the same module. Raises SyntaxError."""
        scope: dict[str, Any] = {}
        placed = "\n" * (self.line - 1) + source
        exec(compile(placed, self.function.__code__.co_filename, "exec"), self.function.__globals__, scope)
        (made,) = scope.values()
        return made

    @contextmanager
    def replaced_by(self, source: str) -> Iterator[None]:
        """Within this context, the function runs ``source``. It stays the same object for every caller."""
        made, function = self.compiled(source), self.function
        own = [getattr(function, name) for name in _BODY]
        for name in _BODY:
            setattr(function, name, getattr(made, name))
        try:
            yield
        finally:
            for name, value in zip(_BODY, own):
                setattr(function, name, value)


def loader_functions(loader: Loader) -> list[Function]:
    """The functions with which a target loads checkpoints.

    For timm: its filter functions and ``load_pretrained``, what these call in its models and layers, the part of
    ``create_model`` that loads what they return, what reads files, and what resizes a loaded model. For a user's function: that
    function, and what it calls in its package. For the reference: every function.
    """
    if loader.target.kind == "reference":
        return _named(_defined("timm_conformance.reference"), "timm_conformance.reference.")
    if loader.target.kind == "loader":
        assert loader.function is not None
        package = loader.target.value.split(":")[0].split(".")[0]
        return _named(_called([inspect.unwrap(loader.function)], (package,)), f"{package}.")
    module, name, text = _FACTORY
    factory = Function(f"{module.removeprefix('timm.')}:{name}", getattr(importlib.import_module(module), name), text)
    found = _named(_called(list(_entries(loader)), ("timm.models", "timm.layers")), "timm.")
    known = {f.function for f in found}
    more = [f for f in dict.fromkeys([*_reading(), *_resizing(loader)]) if f not in known]
    return [factory, *found, *(replace(f, if_run=True) for f in _named(more, "timm."))]


def _entries(loader: Loader) -> Iterator[FunctionType]:
    """The functions through which a release loads its families."""
    for family in FAMILIES.values():
        if loader.supports(family):
            convert = loader.filter_function(family)
            if convert is not None:
                yield inspect.unwrap(convert)
            try:
                in_place = getattr(model_class(family), "load_pretrained", None) if family.in_place else None
            except Unsupported:
                continue
            if in_place is not None:
                yield inspect.unwrap(in_place)


def _reading() -> Iterator[FunctionType]:
    for module, name in _READING:
        found = getattr(importlib.import_module(module), name, None)
        if found is not None:
            yield found


def _resizing(loader: Loader) -> Iterator[FunctionType]:
    """The methods of the families' models, and of layers, that resize."""
    layers = importlib.import_module("timm.layers")
    names = {f"timm.models.{family.module}" for family in FAMILIES.values() if loader.supports(family)}
    names |= {info.name for info in pkgutil.iter_modules(layers.__path__, "timm.layers.")}
    for name in sorted(names):
        module = importlib.import_module(name)
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == name:
                methods = {k: inspect.unwrap(v) for k, v in vars(cls).items() if isinstance(v, FunctionType)}
                yield from (method for key, method in methods.items() if _RESIZING.fullmatch(key))


def _called(functions: list[FunctionType], packages: tuple[str, ...]) -> list[FunctionType]:
    """These functions, and all functions of the packages that they call, directly or indirectly."""
    found: dict[FunctionType, None] = {}
    while functions:
        function = functions.pop(0)
        if function in found:
            continue
        found[function] = None
        for name in sorted(names_in(function.__code__)):
            called = inspect.unwrap(function.__globals__.get(name) or object)
            if isinstance(called, FunctionType) and called.__module__.startswith(packages):
                functions.append(called)
    return list(found)


def names_in(code: CodeType) -> set[str]:
    """The global names and attributes that a function and its inner functions refer to."""
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*map(names_in, inner))


def _defined(package: str) -> list[FunctionType]:
    """Every function and method written in a package."""
    root = importlib.import_module(package)
    names = [package, *(info.name for info in pkgutil.walk_packages(root.__path__, f"{package}."))]
    return [f for name in names for f in _written_in(importlib.import_module(name))]


def _written_in(module: ModuleType) -> Iterator[FunctionType]:
    for value in vars(module).values():
        for one in vars(value).values() if inspect.isclass(value) and value.__module__ == module.__name__ else [value]:
            plain = getattr(one, "fget", None) or getattr(one, "func", None) or getattr(one, "__func__", one)
            plain = inspect.unwrap(plain) if callable(plain) else plain
            if (
                isinstance(plain, FunctionType)
                and plain.__code__.co_filename == module.__file__
                and plain.__name__ != "<lambda>"
            ):
                yield plain


def _named(functions: list[FunctionType], package: str) -> list[Function]:
    named = [Function(f"{f.__module__.removeprefix(package)}:{f.__qualname__}", f) for f in functions]
    return sorted(named, key=lambda f: f.name)
