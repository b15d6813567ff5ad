"""Finds the strings that a timm release tests checkpoint keys for, by reading its source without importing it.

Every string of a converting function counts unless it is clearly something else (a message, an attribute's name, an
argument that nothing tests, the new name of a key). So tests that are written in an unforeseen way count as well.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from ..errors import UserError

_CONVERTER = re.compile(r"checkpoint_filter_fn\w*|_convert_\w+|_load_weights")
_EDGE = r"(?:^|[./])"  # where a name inside a key begins: its prefix may be gone by the time it is tested
_HOW = {"key": "^{}$", "name": _EDGE + "{}$", "starts": _EDGE + "{}", "ends": "{}$", "part": "{}", "regex": "{}"}
_METHODS = {"startswith": "starts", "removeprefix": "starts", "endswith": "ends", "removesuffix": "ends"}
_METHODS |= {"replace": "part"}
_LOOKUPS = frozenset({"get", "pop", "setdefault", "__getitem__", "__contains__"})
_ONE_KEY = frozenset({"k", "key", "n", "name"})  # what a helper that is handed a single key calls it
_NO_KEYS = frozenset({"model", "self", "kwargs", "os"})
_NO_TEST = frozenset({"getattr", "hasattr", "setattr", "isinstance", "print", "warnings", "logging", "_logger"})
_EMPTY = re.compile(r"[(){}\[\], ]+|(Ordered)?[dD]ict\(\)|defaultdict\(\w+\)")
_SEQUENCE = (ast.Tuple, ast.List, ast.Set)
_LOOP = (ast.For, ast.comprehension)
_Assignment = ast.Assign | ast.AnnAssign | ast.NamedExpr


@dataclass(frozen=True, order=True)
class Detection:
    """A string tested against checkpoint keys and where; ``pattern`` is the regex a key that passes the test matches.

    ``{}`` in the text is what an f-string or a sum fills in.
    """

    module: str
    line: int
    function: str
    text: str
    pattern: str


class _Source:
    """A file of ``timm/models``; its nodes know their parent and the name of the function they are in."""

    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.module = path.stem
        self.nodes: list[ast.AST] = [tree]
        self.parents: dict[ast.AST, ast.AST] = {}
        self.functions: dict[ast.AST, str] = {tree: ""}
        for node in self.nodes:  # grows: parents first
            for child in ast.iter_child_nodes(node):
                self.nodes.append(child)
                self.parents[child] = node
                own = child.name if isinstance(child, ast.FunctionDef) else ""
                self.functions[child] = self.functions[node] or own
        functions = [n for n in self.nodes if isinstance(n, ast.FunctionDef)]
        self.converters: list[ast.AST] = [f for f in functions if _CONVERTER.fullmatch(f.name)]
        outside = [f for f in functions if not isinstance(self.parents[f], ast.ClassDef)]
        self.defined: dict[str, ast.AST] = {f.name: f for f in outside}
        self.defined |= {name: value for n, value in _assignments(tree.body) for name in _targets(n)}
        self.imports = {
            alias.asname or alias.name: (n.module.removeprefix("timm.models."), alias.name)
            for n in self.nodes
            if isinstance(n, ast.ImportFrom) and n.module and (n.level == 1 or n.module.startswith("timm.models."))
            for alias in n.names
        }
        passed = [n.value for n in self.nodes if isinstance(n, ast.keyword) and n.arg == "pretrained_filter_fn"]
        names = {name for value in passed for name in _names(value)}
        self.converters += [*passed, *(value for n, value in _assignments(self.nodes) if names & _targets(n))]


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _assignments(nodes: Iterable[ast.AST]) -> Iterator[tuple[_Assignment, ast.expr]]:
    """The assignments among nodes, with their values."""
    for node in nodes:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            yield node, node.value


def _targets(node: _Assignment | ast.For | ast.comprehension) -> set[str]:
    """The names an assignment or a loop binds; ``out["x"] = ...`` binds none."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [p for t in targets for p in (t.elts if isinstance(t, _SEQUENCE) else [t])]
    return {p.id for p in parts if isinstance(p, ast.Name)}


def _root(node: ast.AST) -> str:
    """The name an expression starts with: ``k`` for ``k.split(".")[0]``, ``model`` for ``getattr(model, "a").b``."""
    if isinstance(node, ast.Call):
        return _root(node.args[0] if ast.unparse(node.func) == "getattr" else node.func)
    if isinstance(node, (ast.Attribute, ast.Subscript)):
        return _root(node.value)
    return node.id if isinstance(node, ast.Name) else ""


def _pieces(node: ast.AST) -> list[str | ast.AST]:
    """A string expression as its literal parts, with the expressions that fill in the others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [p for value in node.values for p in _pieces(value)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _pieces(node.left) + _pieces(node.right)
    return [node]


def _is_string(node: ast.AST) -> TypeGuard[ast.expr]:
    return any(isinstance(p, str) and p for p in _pieces(node))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """What is in ``node``, without error messages, docstrings and annotations."""
    yield node
    for child in ast.iter_child_nodes(node):
        aside = isinstance(child, ast.Raise) or (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))
        if not aside and child not in [getattr(node, a, None) for a in ("annotation", "returns", "msg", "format_spec")]:
            yield from _code(child)


class _Release:
    """The loaders of an unpacked release: its converting functions, and everything in ``timm/models`` that they use."""

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        self.folder = folder / "timm" / "models"
        self.sources: dict[str, _Source | None] = {}
        self.parents: dict[ast.AST, ast.AST] = {}
        self.within: dict[ast.AST, ast.AST] = {}  # the root from which an expression was reached
        self.roots: dict[ast.AST, _Source] = {}
        self.one_key: dict[ast.AST, set[str]] = {}
        self.loads: dict[tuple[ast.AST | None, str], list[ast.Name]] = defaultdict(list)
        for name in modules:
            source = self.source(name)
            if source is None:
                raise UserError(
                    f"{folder} has no timm/models/{name}.py: adjust MODULES in conformance/targets/registry.py"
                )
            for node in source.converters:
                self.follow(node, source)

    def source(self, name: str) -> _Source | None:
        """A file of the release, None when it has none of that name."""
        path = self.folder / f"{name.replace('.', '/')}.py"
        if name not in self.sources:
            self.sources[name] = source = _Source(path) if path.is_file() else None
            self.parents |= source.parents if source else {}
        return self.sources[name]

    def follow(self, root: ast.AST, source: _Source) -> None:
        """Add ``root`` and the functions and constants that it mentions, including those imported from other files."""
        if root in self.roots:
            return
        self.roots[root], nodes = source, list(_code(root))
        # `in` looks for a part of a single key, and for a new name in a dict under construction.
        names = set(_ONE_KEY).union(*(_names(n.target) for n in nodes if isinstance(n, _LOOP)))
        for n in nodes:
            self.within[n] = root
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load):
                self.loads[root, n.id].append(n)
                self.loads[None, n.id].append(n)
        for n, value in _assignments(nodes):
            if _root(value) in names or _EMPTY.fullmatch(ast.unparse(value)):
                names |= _targets(n)
        self.one_key[root] = names
        for name in _names(root):
            home: _Source | None = source
            while home and name not in home.defined and name in home.imports:
                origin, name = home.imports[name]
                home = self.source(origin)
            if home and name in home.defined:
                self.follow(home.defined[name], home)

    def detections(self) -> Iterator[Detection]:
        """Every string that is tested."""
        for root, source in self.roots.items():
            for node in _code(root):
                if not _is_string(node) or (node is not root and _is_string(self.parents[node])):
                    continue
                pieces = _pieces(node)
                text = "".join(p if isinstance(p, str) else "{}" for p in pieces)
                for how in self.tests(node, set()):
                    literal = str if how == "regex" or "\\" in text else re.escape
                    pattern = "".join(literal(p) if isinstance(p, str) else ".*" for p in pieces)
                    pattern = pattern if literal is str else _HOW[how].format(pattern)
                    yield Detection(source.module, node.lineno, source.functions[node] or "<module>", text, pattern)

    def tests(self, node: ast.AST, seen: set[ast.AST]) -> Iterator[str]:
        """How an expression is tested, directly or through the names that it is bound to."""
        if node in seen:
            return
        seen.add(node)
        parent, root = self.parents[node], self.within[node]
        names: set[str] = set()
        everywhere = node is root
        match parent:
            case ast.Tuple(elts=[_, second]) if second is node and isinstance(self.parents[parent], _SEQUENCE):
                return  # a table of renames: the new name
            case ast.Dict() if node not in parent.keys:
                return
            case ast.IfExp(test=test) if test is node:
                yield "part"
            case ast.Tuple() | ast.List() | ast.Set() | ast.Dict() | ast.Starred() | ast.BoolOp() | ast.IfExp():
                yield from self.tests(parent, seen)
            case ast.BinOp(op=ast.Mod()):
                yield from self.tests(parent, seen)
            case ast.Assign() | ast.AnnAssign() | ast.NamedExpr():
                names = _targets(parent) - (set() if everywhere else self.one_key[root])  # a key's new name
            case ast.For() | ast.comprehension():
                names = _targets(parent)
            case ast.arguments():
                names = {self.parameter(parent, node)}
            case ast.keyword():
                names, everywhere = {parent.arg} if parent.arg else set(), True
            case ast.Compare():
                yield from self.compared(node, parent)
            case ast.Call() if node in parent.args:
                yield from self.passed(node, parent)
            case ast.Attribute(attr=attr):
                if attr in _LOOKUPS:
                    yield "name"
                elif attr not in _METHODS and isinstance(self.parents[parent], ast.Call):
                    yield from self.tests(self.parents[parent], seen)
            case ast.Subscript(slice=ast.Constant(value=int()) | ast.Slice(), value=value) if value is node:
                yield from self.tests(parent, seen)
            case ast.Subscript(ctx=ctx):
                how = "name" if parent.value is node else self.looked_up(parent.value)
                yield from [how] if how and not isinstance(ctx, ast.Store) else ()
            case _:
                yield "part"
        for load in (load for name in names for load in self.loads[None if everywhere else root, name]):
            yield from self.tests(load, seen)

    def parameter(self, arguments: ast.arguments, default: ast.AST) -> str:
        """The parameter a default belongs to."""
        of_keywords: list[ast.AST | None] = [*arguments.kw_defaults]
        if default in of_keywords:
            return arguments.kwonlyargs[of_keywords.index(default)].arg
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults: list[ast.AST] = [*arguments.defaults]
        return positional[defaults.index(default) - len(defaults)].arg

    def looked_up(self, where: ast.AST) -> str | None:
        """How a string looked up in ``where`` is tested; None when that holds no keys."""
        root = _root(where)
        return None if root in _NO_KEYS else "part" if root in self.one_key[self.within[where]] else "key"

    def compared(self, node: ast.AST, parent: ast.Compare) -> Iterator[str]:
        """How an operand of a comparison is tested."""
        operands = [parent.left, *parent.comparators]
        for left, op, right in zip(operands, parent.ops, operands[1:]):
            other = right if left is node else left
            if node in (left, right) and _root(other) not in _NO_KEYS:
                if left is node and isinstance(op, (ast.In, ast.NotIn)):
                    yield self.looked_up(right) or "part"
                else:
                    yield "name" if isinstance(other, ast.Name) else "part"

    def passed(self, node: ast.AST, call: ast.Call) -> Iterator[str]:
        """How an argument of a call is tested."""
        function, root, first = call.func, _root(call.func), node is call.args[0]
        if root in _NO_KEYS or root in _NO_TEST:
            return
        how: str | None = "regex"
        if root != "re":
            if not isinstance(function, ast.Attribute) or function.attr not in {*_METHODS, *_LOOKUPS}:
                yield "part"
                return
            how = _METHODS.get(function.attr) or self.looked_up(function.value)
        yield from [how] if first and how else ()


def detection_strings(folder: Path, modules: Sequence[str]) -> list[Detection]:
    """The strings by which an unpacked release distinguishes checkpoint formats, in the order of the source."""
    return sorted(set(_Release(folder, modules).detections()))
