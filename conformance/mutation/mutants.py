"""The mutants of a function: each is one change in one place. Its name does not depend on the place in the file."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from types import CodeType, FunctionType

from .functions import Function
from .operators import changes
from .score import Mutant


def mutants_of(function: Function) -> Iterator[Mutant]:
    """Every mutant of a function that compiles to other code than the function and than the mutants before it."""
    seen = {_behaviour(function.function)}
    for operator, source in changes(function.source):
        try:
            behaviour = _behaviour(function.compiled(source))
        except SyntaxError:
            continue
        if behaviour not in seen:
            seen.add(behaviour)
            mutant = _mutant(function, operator, source)
            if mutant.line >= function.first_mutated:
                yield mutant


def _behaviour(function: FunctionType) -> tuple:
    """The compiled code and defaults of a function, without its position in the file."""
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
