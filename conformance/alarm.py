"""The unknown-family alarm: ``python -m conformance.alarm [TARGET...]``.

A loader knows a checkpoint format by strings it tests against the keys. This module reads those strings off the source
of a timm release, importing nothing of it, and names the ones that no key of a checkpoint our families generate has: a
new release cannot add a family unnoticed.

Every string of a converting function counts unless it plainly is something else (a docstring, a message, an attribute's
name, a keyword argument nobody tests, what a key is renamed to), so that a test written in an unforeseen way counts too.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.version import Version

from . import families, releases
from .errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_USAGE, UserError
from .targets import parse_target

MODULES = ("vision_transformer", "deit", "vision_transformer_hybrid")
FIRST_RELEASE = "0.9.0"
STRATA = ("native", "grow/grow")
EXAMPLES = 40  # cases of a family and stratum; keys depend on the architecture options and the wrapper alone

# (function, text) -> why the text tells no format. Keyed by function too: tested elsewhere, the text is still named.
NOT_A_FAMILY: dict[tuple[str, str], str] = {}

_CONVERTER = re.compile(r"checkpoint_filter_fn\w*|_convert_\w+|_load_weights")
_EDGE = r"(?:^|[./])"  # where a name inside a key begins: its prefix may be gone by the time it is tested
_HOW = {"key": "^{}$", "name": _EDGE + "{}$", "starts": _EDGE + "{}", "ends": "{}$", "part": "{}", "regex": "{}"}
_METHODS = {"startswith": "starts", "removeprefix": "starts", "endswith": "ends", "removesuffix": "ends"}
_LOOKUPS = ("get", "pop", "setdefault", "__getitem__", "__contains__")
_KEYS = frozenset({"k", "key", "n", "name"})  # what a helper that is handed a single key calls it
_NOT_KEYS = frozenset({"model", "self", "kwargs", "os", "warnings", "logging", "_logger", "getattr", "hasattr", "type"})
_SEQUENCE = (ast.Tuple, ast.List, ast.Set)
_FUNCTION = (ast.FunctionDef, ast.Lambda)


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
    """A file of ``timm/models``: its functions, its constants, and what it imports from the files beside it."""

    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.nodes = list(ast.walk(tree))
        methods = {m for c in self.nodes if isinstance(c, ast.ClassDef) for m in c.body}
        self.functions = {n.name: n for n in self.nodes if isinstance(n, ast.FunctionDef) and n not in methods}
        self.constants = list(_assignments(tree.body))
        self.imports = {
            alias.asname or alias.name: (n.module.removeprefix("timm.models."), alias.name)
            for n in self.nodes
            if isinstance(n, ast.ImportFrom) and n.module and (n.level == 1 or n.module.startswith("timm.models."))
            for alias in n.names
        }
        for outer in (n for n in self.nodes if isinstance(n, _FUNCTION)):  # outer ones come first and stay the owner
            for node in ast.walk(outer):
                node.__dict__.setdefault("owner", (path.stem, getattr(outer, "name", "<lambda>")))
        for node in self.nodes:
            node.__dict__.setdefault("owner", (path.stem, "<module>"))

    def entries(self) -> list[ast.AST]:
        """Functions with a converter's name, and what is passed as ``pretrained_filter_fn``."""
        passed = [n.value for n in self.nodes if isinstance(n, ast.keyword) and n.arg == "pretrained_filter_fn"]
        names = set().union(*map(_names, passed))
        passed += [value for name, value in _assignments(self.nodes) if name in names]
        return [n for n in self.nodes if isinstance(n, ast.FunctionDef) and _CONVERTER.fullmatch(n.name)] + passed


def _assignments(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """Names with what they are assigned, tuples taken apart; parameters with their defaults."""
    for node in nodes:
        if isinstance(node, ast.arguments):
            names = [a.arg for a in [*node.posonlyargs, *node.args, *node.kwonlyargs]]
            defaults = [*node.defaults, *node.kw_defaults]
            yield from ((n, d) for n, d in zip(names[len(names) - len(defaults) :], defaults) if d is not None)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((t.id, v) for t, v in _unpacked(target, node.value) if isinstance(t, ast.Name))


def _unpacked(target: ast.AST, value: ast.AST) -> list[tuple[ast.AST, ast.AST]]:
    together = isinstance(target, _SEQUENCE) and isinstance(value, _SEQUENCE)
    return list(zip(target.elts, value.elts)) if together else [(target, value)]


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _root(node: ast.AST) -> str:
    """The name an expression starts with: ``k`` for ``k.split(".")[0]``."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _pieces(node: ast.AST) -> list[str | ast.AST]:
    """A string expression as its literal parts, with the expressions that fill in the others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [p for value in node.values for p in _pieces(value)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _pieces(node.left) + _pieces(node.right)
    return [node.value if isinstance(node, ast.FormattedValue) else node]


class _Reader:
    """Collects the strings that one converting function tests."""

    def __init__(self, function: ast.AST, source: _Source, passed: Sequence[tuple[str, ast.AST]]) -> None:
        nodes = list(ast.walk(function))
        assigned = list(_assignments(nodes))
        self.found: set[Detection] = set()
        self.seen: set[tuple[ast.AST, str | None]] = set()
        self.bound: dict[str, list[ast.AST]] = defaultdict(list)  # what a name may stand for
        for name, value in [*source.constants, *passed, *assigned]:
            self.bound[name].append(value)
        loops = [(n.target, self.elements(n.iter)) for n in nodes if isinstance(n, (ast.For, ast.comprehension))]
        # Single keys: `in` looks for a part of them. What is assigned to one is what it is renamed to, never tested.
        self.parts = set().union(*(_names(target) for target, elements in loops if not elements))
        for name in self.parts:
            self.bound.pop(name, None)
        for target, value in (pair for t, elements in loops for e in elements for pair in _unpacked(t, e)):
            self.bound[_root(target)].append(value)
        # So does `in` for a name made of a key, and for a dict under construction, whose names are new ones.
        self.parts |= _KEYS
        for name, value in assigned:
            if _root(value) in self.parts or ast.unparse(value) in ("{}", "[]", "dict()", "OrderedDict()"):
                self.parts.add(name)
        self.visit(function, "part")

    def elements(self, node: ast.AST) -> list[ast.AST]:
        """What a loop over ``node`` meets, as far as it is spelt out."""
        method = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        node = node.func.value if method in ("items", "keys") else node
        out: list[ast.AST] = []
        for value in self.bound.get(node.id, ()) if isinstance(node, ast.Name) else [node]:
            if isinstance(value, _SEQUENCE):
                out += value.elts
            elif isinstance(value, ast.Dict):
                pairs = [(k, v) for k, v in zip(value.keys, value.values) if k]
                out += [ast.Tuple([*pair]) for pair in pairs] if method == "items" else [k for k, _ in pairs]
        return out

    def visit(self, node: ast.AST | None, how: str | None) -> None:
        """Walk ``node``: its own strings are tested as ``how`` says, or not at all; those of tests in it as these say."""
        if node is None or (node, how) in self.seen:
            return
        self.seen.add((node, how))
        pieces = _pieces(node)
        method = getattr(self, f"visit_{type(node).__name__}", None)
        if any(isinstance(p, str) and p for p in pieces):
            self.emit(node, pieces, how)
        elif method is not None:
            method(node, how)
        else:
            for child in ast.iter_child_nodes(node):
                self.visit(child, how)

    def emit(self, node: ast.AST, pieces: list[str | ast.AST], how: str | None) -> None:
        text = "".join(p if isinstance(p, str) else "{}" for p in pieces)
        if how is not None:
            how = "regex" if "\\" in text else how
            parts = [(p if how == "regex" else re.escape(p)) if isinstance(p, str) else ".*" for p in pieces]
            self.found.add(Detection(node.owner[0], node.lineno, node.owner[1], text, _HOW[how].format("".join(parts))))
        for piece in pieces:
            if not isinstance(piece, str):
                self.visit(piece, how and "part")

    def looked_up(self, where: ast.AST) -> str | None:
        """How a string looked up in ``where`` is tested."""
        root = _root(where)
        return None if root in _NOT_KEYS else "part" if root in self.parts else "key"

    def visit_Name(self, node: ast.Name, how: str | None) -> None:
        for value in self.bound.get(node.id, ()) if isinstance(node.ctx, ast.Load) else ():
            if how or isinstance(value, ast.Call):  # re.compile() tests whatever becomes of the name
                self.visit(value, how)

    def visit_Compare(self, node: ast.Compare, how: str | None) -> None:
        operands = [node.left, *node.comparators]
        for a, op, b in zip(operands, node.ops, operands[1:]):
            if isinstance(op, (ast.In, ast.NotIn)):
                hows = (self.looked_up(b), self.looked_up(a) and "name")
            else:
                hows = ("name" if isinstance(b, ast.Name) else "part", "name" if isinstance(a, ast.Name) else "part")
            aside = {_root(a), _root(b)} & _NOT_KEYS
            self.visit(a, None if aside else hows[0])
            self.visit(b, None if aside else hows[1])

    def visit_Call(self, node: ast.Call, how: str | None) -> None:
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        root, first, rest = _root(node.func), "part", None
        if root in _NOT_KEYS or root in ("isinstance", "print"):
            first = None
        elif root == "re":
            first = "regex"
        elif method in _LOOKUPS:
            first = self.looked_up(node.func.value)
        elif method in _METHODS:
            first = _METHODS[method]
        elif method != "replace":
            rest = "part"
        self.visit(node.func, None)
        for i, argument in enumerate(node.args):
            self.visit(argument, rest if i else first)
        for keyword in node.keywords:
            self.visit(keyword.value, None)

    def visit_Subscript(self, node: ast.Subscript, how: str | None) -> None:
        self.visit(node.value, None)
        self.visit(node.slice, None if isinstance(node.ctx, ast.Store) else self.looked_up(node.value))
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        for value in self.bound.get(_root(node.value), ()) if isinstance(index, int) else ():
            if isinstance(value, _SEQUENCE) and index < len(value.elts):
                self.visit(value.elts[index], how)

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, how: str | None) -> None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            self.visit(target, None)
        self.visit(node.value, None)

    visit_AnnAssign = visit_AugAssign = visit_Assign

    def visit_FunctionDef(self, node: ast.FunctionDef, how: str | None) -> None:
        for statement in node.body:
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self.visit(statement, "part")

    def visit_For(self, node: ast.For | ast.comprehension, how: str | None) -> None:
        spelt_out = self.elements(node.iter)
        for child in ast.iter_child_nodes(node):
            self.visit(child, None if child is node.iter and spelt_out else "part")

    visit_comprehension = visit_For

    def visit_Dict(self, node: ast.Dict, how: str | None) -> None:
        for key, value in zip(node.keys, node.values):
            self.visit(key, how)
            self.visit(value, None)

    def visit_DictComp(self, node: ast.DictComp, how: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            self.visit(child, "part" if isinstance(child, ast.comprehension) else None)

    def visit_IfExp(self, node: ast.IfExp, how: str | None) -> None:
        self.visit(node.test, "part")
        self.visit(node.body, how)
        self.visit(node.orelse, how)

    def visit_Assert(self, node: ast.Assert, how: str | None) -> None:
        self.visit(node.test, "part")

    def visit_Raise(self, node: ast.Raise | ast.arguments, how: str | None) -> None:
        """Messages, annotations and defaults (which are bound to their names) are no tests."""

    visit_arguments = visit_Raise


def detection_strings(folder: Path, modules: Sequence[str] = MODULES) -> list[Detection]:
    """What the converting functions of an unpacked release test keys for, and all functions of timm/models they use."""
    sources: dict[str, _Source | None] = {}
    functions: dict[ast.AST, _Source] = {}
    passed: list[tuple[str, ast.AST]] = []

    def source(name: str) -> _Source | None:
        path = folder / "timm" / "models" / f"{name.replace('.', '/')}.py"
        if name not in sources:
            sources[name] = _Source(path) if path.is_file() else None
        return sources[name]

    def follow(node: ast.AST, file: _Source) -> None:
        if node in functions:
            return
        if isinstance(node, _FUNCTION):
            functions[node] = file
        for n in ast.walk(node):
            if isinstance(n, ast.keyword) and n.arg:
                passed.append((n.arg, n.value))
            elif isinstance(n, ast.Lambda):
                functions.setdefault(n, file)
            elif isinstance(n, ast.Name):
                name, home = n.id, file
                while home and name not in home.functions and name in home.imports:
                    origin, name = home.imports[name]
                    home = source(origin)
                if home and name in home.functions:
                    follow(home.functions[name], home)

    for name in modules:
        file = source(name)
        if file is None:
            raise UserError(f"{folder} has no timm/models/{name}.py: adjust MODULES in conformance/alarm.py")
        for entry in file.entries():
            follow(entry, file)
    return sorted(set().union(*(_Reader(f, file, passed).found for f, file in functions.items())))


@cache
def generated_keys(name: str) -> frozenset[str]:
    """The keys of a family's checkpoints, upstream and in timm's layout, with those of wrappers and nested dicts."""
    import hypothesis

    from . import checkpoints, strategies

    family, found = families.FAMILIES[name], set()
    for stratum in (s for s in strategies.STRATA if s.name in STRATA):

        @hypothesis.seed(0)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(strategies.cases(family, stratum))
        def collect(case) -> None:
            state = checkpoints.truth(family, case)
            upstream = {**checkpoints.encode(family, case, state), **checkpoints.foreign(family, case)}
            found.update(state, _keys(checkpoints.wrap(upstream, case.wrapper)))

        collect()
    return frozenset(found)


def _keys(checkpoint: dict) -> Iterator[str]:
    for key, value in checkpoint.items():
        yield key
        if isinstance(value, dict):
            yield from _keys(value)


@cache
def _covered(pattern: str, name: str) -> bool:
    return any(re.search(pattern, key) for key in generated_keys(name))


def uncovered(folder: Path, modules: Sequence[str] = MODULES) -> list[Detection]:
    """The strings a release tests that are in no key of any checkpoint our families generate."""
    return [
        d
        for d in detection_strings(folder, modules)
        if (d.function, d.text) not in NOT_A_FAMILY and not any(_covered(d.pattern, n) for n in families.FAMILIES)
    ]


def offered() -> list[str]:
    """The targets of every release the package index has, from the first this project judges. Raises :class:`UserError`."""
    command = [sys.executable, "-m", "pip", "index", "versions", "timm", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--retries=1", "--timeout=20"], capture_output=True, text=True)
    listed = re.search(r"^Available versions: (.+)$", done.stdout, re.M)
    if done.returncode or listed is None:
        raise UserError("cannot ask the package index for timm's releases (no network, or no pip): name targets")
    versions = sorted(map(Version, listed.group(1).split(", ")))
    return [f"timm=={v}" for v in versions if v >= Version(FIRST_RELEASE)]


def _folder(spec: str) -> Path:
    target = parse_target(spec)
    if target.kind == "timm":
        return releases.ensure(target.value)
    if target.kind == "installed":
        return Path(importlib.util.find_spec("timm").origin).parent.parent
    if target.kind == "path":
        return Path(target.value)
    raise UserError(f"target {spec!r} is not a timm: the alarm reads timm==VERSION, path:DIR or installed")


def main(specs: Sequence[str]) -> int:
    """Print what each target tests that no family of ours has."""
    try:
        targets = list(specs) or offered()
        named = [(spec, d) for spec in targets for d in uncovered(_folder(spec))]
    except UserError as error:
        print(f"conformance.alarm: {error}", file=sys.stderr)
        return EXIT_USAGE
    for spec, d in named:
        print(f"{spec}  timm/models/{d.module}.py:{d.line}  {d.function}  {d.text!r}")
    if named:
        return EXIT_FAILURE
    print(f"{len(targets)} targets: every string they tell a format by is in a checkpoint some family generates")
    return EXIT_EXPECTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
