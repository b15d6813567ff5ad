"""The text of a script: its title, the checkpoint, the load as a user writes it, and the assertion."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import source_code


@dataclass(frozen=True)
class Assertion:
    """What a script asserts after the load: ``lines`` that set ``got`` and ``bug``, and code for the text ``expected``.

    Lines ``before`` come before the load. ``functions`` are functions that all lines may call. ``raised`` is code for whether an
    exception is the bug. Lines ``after`` run after the load or its exception.
    """

    expected: str
    lines: Sequence[str] = ("got, bug = expected, False",)
    before: Sequence[str] = ()
    functions: Sequence[str] = ()
    raised: str = "True"
    after: Sequence[str] = ()


@dataclass(frozen=True)
class Call:
    """One way to load the checkpoint: imports, lines that prepare, lines that load, and functions that they call."""

    imports: Sequence[str]
    prepare: Sequence[str]
    load: Sequence[str]
    functions: Sequence[str] = ()


@dataclass(frozen=True)
class About:
    """The head of a script: a title, further paragraphs, and its dependencies."""

    title: str
    paragraphs: Sequence[str]
    dependencies: Sequence[str]


def text(about: About, checkpoint: str, call: Call, assertion: Assertion) -> str:
    """The whole script."""
    body = [
        *checkpoint.splitlines(),
        *call.prepare,
        *assertion.before,
        "",
        f"expected = {assertion.expected}",
        "try:",
        *indented([*call.load, *assertion.lines]),
        "except Exception as error:",
        f"    got, bug = f\"{{type(error).__name__}}: {{' '.join(str(error).split())}}\", {assertion.raised}",
        *assertion.after,
        "",
        'print(f"timm {timm.__version__}")',
        'print(f"expected: {expected}\\ngot:      {got}")',
        "sys.exit(1 if bug else 0)",
    ]
    functions = "\n\n\n".join((*call.functions, *assertion.functions))
    if functions:
        body = ["", *functions.splitlines(), "", "", *body]
    code = "\n".join(body)
    imports = {"import sys", "import timm", "import torch", *(i for i in call.imports if _used(i, code))}
    head = [
        "# /// script",
        '# requires-python = ">=3.10"',
        f"# dependencies = [{', '.join(f'{chr(34)}{d}{chr(34)}' for d in about.dependencies)}]",
        "# ///",
        *_docstring(about),
        "",
        *_imports(imports),
        "",
    ]
    return "\n".join([*head, *body]) + "\n"


def _used(statement: str, code: str) -> bool:
    """Whether code uses what an import statement binds."""
    return re.search(rf"(?<![\w.\"]){statement.split()[-1].split('.')[0]}\b", code) is not None


def indented(lines: Iterable[str]) -> list[str]:
    """Lines of a block, indented."""
    return [f"    {line}" for block in lines for line in block.splitlines()]


def _docstring(about: About) -> list[str]:
    title = textwrap.wrap(about.title.rstrip(".") + ".", source_code.WIDTH - 4)
    paragraphs = [line for p in about.paragraphs for line in ("", *textwrap.wrap(p, source_code.WIDTH))]
    lines = [*title, *paragraphs]
    lines[0] = f'"""{lines[0]}'
    return [*lines[:-1], f'{lines[-1]}"""'] if len(lines) == 1 else [*lines, '"""']


_STANDARD = ("functools", "sys", "tempfile")


def _imports(statements: set[str]) -> list[str]:
    """Import statements in the usual order, the standard library's first, names of one module together."""
    modules: dict[str, list[str]] = {}
    for statement in statements:
        if statement.startswith("from"):
            _, module, _, name = statement.split()
            modules.setdefault(module, []).append(name)
    lines = [s for s in statements if s.startswith("import")]
    lines += [f"from {module} import {', '.join(sorted(names))}" for module, names in modules.items()]
    lines.sort(key=lambda line: (line.startswith("from"), line.split()[1]))
    own = [line for line in lines if line.split()[1].split(".")[0] in _STANDARD]
    return [*own, "", *(line for line in lines if line not in own)]
