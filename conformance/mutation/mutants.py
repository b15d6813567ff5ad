"""The mutants of a function: each one change in one place, by a name that does not depend on where in the file it stands."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from types import CodeType, FunctionType

from .functions import Function
from .operators import changes
from .score import Mutant


def mutants_of(function: Function) -> Iterator[Mutant]:
    """Every mutant of a function that compiles to something else than it, and than those before it."""
    seen = {_essence(function.function)}
    for operator, source in changes(function.source):
        try:
            essence = _essence(function.compiled(source))
        except SyntaxError:
            continue
        if essence not in seen:
            seen.add(essence)
            yield _mutant(function, operator, source)


def _essence(function: FunctionType) -> tuple:
    """What a function does, without where it is written."""
    return _code(function.__code__), repr(function.__defaults__), repr(function.__kwdefaults__)


def _code(code: CodeType) -> tuple:
    constants = tuple(_code(c) if isinstance(c, CodeType) else (type(c), repr(c)) for c in code.co_consts)
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars


def _mutant(function: Function, operator: str, source: str) -> Mutant:
    old, new = function.source.splitlines(), source.splitlines()
    edits = [e for e in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if e[0] != "equal"]
    first, last = edits[0][1], max(e[2] for e in edits)
    to = (min(e[3] for e in edits), max(e[4] for e in edits))
    before, after = (" ".join(" ".join(lines).split()) for lines in (old[first:last], new[slice(*to)]))
    under = old[first - 1].strip() if first else ""
    return Mutant(function.name, operator, function.line + first, max(last - first, 1), before, after, source, under)
