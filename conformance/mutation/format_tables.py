"""Makes the reference's format tables again for a mutant of the code that makes them, which runs only at import."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

from ..reference.formats import FORMATS, Format
from .functions import Function
from .line_coverage import Lines

_PACKAGE = "timm_conformance.reference.formats."
_CLASSES = _PACKAGE + "rules"  # what tables are made of; its classes have to stay the same


def _modules() -> list[ModuleType]:
    """The formats' modules, in the order in which they were imported."""
    return [m for name, m in sys.modules.items() if name.startswith(_PACKAGE) and name != _CLASSES]


def _run(module: ModuleType, changed: Function | None = None, source: str = "") -> None:
    """Run a module again, with the changed source of a function if the function is its own."""
    lines = inspect.getsource(module).splitlines()
    if changed and changed.function.__module__ == module.__name__:
        first = changed.line - 1
        lines[first : first + len(changed.source.splitlines())] = source.splitlines()
    file = module.__file__
    assert file is not None  # it has source
    exec(compile("\n".join(lines) + "\n", file, "exec"), vars(module))


@contextmanager
def _restored_afterwards() -> Iterator[None]:
    """Restore the modules and their tables afterwards."""
    modules, formats = {m: dict(vars(m)) for m in _modules()}, dict(FORMATS)
    try:
        yield
    finally:
        for module, own in modules.items():
            vars(module).clear()
            vars(module).update(own)
        FORMATS.clear()
        FORMATS.update(formats)


@contextmanager
def changed_tables(function: Function, source: str) -> Iterator[None]:
    """Within this context, the formats are those that their modules make with the changed source of ``function``."""
    if not function.function.__module__.startswith(_PACKAGE):
        yield
        return
    with _restored_afterwards():
        places = {f.name: (m, n) for m in _modules() for n, f in vars(m).items() if isinstance(f, Format)}
        made = [places[name] for name in FORMATS]
        for module in _modules():
            _run(module, function, source)
        FORMATS.clear()
        FORMATS.update({f.name: f for f in (vars(module)[name] for module, name in made)})
        yield


def lines_of(functions: Iterable[Function]) -> dict[str, frozenset[tuple[str, int]]]:
    """The lines of the functions that run when a format's table is made, by the format's name."""
    functions = list(functions)
    found: dict[str, frozenset[tuple[str, int]]] = {}
    with _restored_afterwards():
        for module in _modules():
            with Lines(functions) as lines:
                _run(module)
            found |= {f.name: frozenset(lines.seen) for f in vars(module).values() if isinstance(f, Format)}
    return found
