"""The operators that make mutants: mutmut's and the catalogue of this project, and the code that neither may change.

An operator is a type of libcst node and a function from such a node to its replacements, as in ``boxed/mutmut``
``src/mutmut/mutation/mutators.py``, whose operators are used unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

import libcst as cst
import libcst.matchers as m

from .loader_operators import CATALOGUE
from .mutmut_internals import operators

Operator = tuple[str, type | tuple[type, ...], Callable[[Any], Iterable[cst.CSTNode]]]

OPERATORS: tuple[Operator, ...] = (
    *((name.replace("_", "-"), kind, f) for name, kind, f in operators()),
    *((f.__name__.replace("_", "-"), kind, f) for kind, f in CATALOGUE),
)

# Messages, annotations and docstrings do not change what a loader loads. A raise may be removed, but its text is not changed.
_SAID = m.Call(func=m.Attribute(m.Name("_logger")) | m.Name("print") | m.Attribute(m.Name("warnings")))
_UNTOUCHED = (
    m.Annotation()
    | m.Decorator()
    | m.Import()
    | m.ImportFrom()
    | m.Raise()
    | m.Expr(m.SimpleString() | m.ConcatenatedString() | _SAID)
    | m.Arg(keyword=m.Name("verbose"))
    | m.Param(name=m.Name("verbose"))
)


class Changes(cst.CSTVisitor):
    """Collects the changes that operators make in a function: operator, node, replacement."""

    METADATA_DEPENDENCIES = (cst.metadata.PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Collect every operator's changes of a node. Returns False if nothing inside the node may be changed."""
        if m.matches(node, m.Raise()):
            self.found.append(("statement-removed", node, cst.Pass()))
        if m.matches(node, _UNTOUCHED):
            return False
        for name, kind, operator in OPERATORS:
            if isinstance(node, kind):
                self.found += [(name, node, new) for new in operator(node)]
        if isinstance(node, cst.Assert):  # its message is not changed
            node.test.visit(self)
            return False
        return True


def changes(source: str) -> Iterator[tuple[str, str]]:
    """All changes of a function's source without decorators, each with its operator: (operator, changed source)."""
    wrapper = cst.metadata.MetadataWrapper(cst.parse_module(source))
    visitor = Changes()
    wrapper.visit(visitor)
    places = wrapper.resolve(cst.metadata.PositionProvider)
    starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]
    for name, node, new in visitor.found:
        if isinstance(node, cst.If) and isinstance(new, cst.If) and new.body is node.body and new.orelse is node.orelse:
            node, new = node.test, new.test
        span = [starts[at.line - 1] + at.column for at in (places[node].start, places[node].end)]
        yield name, _changed(wrapper.module, source, span, node, new)


def _changed(module: cst.Module, source: str, span: list[int], node: cst.CSTNode, new: cst.CSTNode) -> str:
    """The source with a node replaced. Replacing it within the text, where possible, is a hundred times faster."""
    start, end = span
    if source[start:end] != module.code_for_node(node):
        return cst.ensure_type(module.deep_replace(node, new), cst.Module).code
    return source[:start] + module.code_for_node(new) + source[end:]
