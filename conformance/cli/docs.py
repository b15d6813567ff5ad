"""The reference pages of docs/, written from the registries: ``python -m timm_conformance.cli.docs``. A test keeps them true."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from packaging.version import Version

from ..drawing.catalogue import models_of
from ..errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_USAGE, EXIT_VACUOUS
from ..families import FAMILIES
from ..invariants import INVARIANTS
from ..ledger.entries import DEFAULT_LEDGER, REPRODUCERS, load_ledger
from ..results.records import Record
from ..targets.target import MODEL_RELEASE
from .main import main as command_line

FOLDER = Path(__file__).resolve().parents[2] / "docs"
_NOTE = "<!-- Written by `python -m timm_conformance.cli.docs` from the registries: edit those, not this page. -->\n"


def invariants() -> str:
    """Every promise: what it says, what breaking it looks like, what it must have met, when it does not apply."""
    lines = ["# Invariants", "", _NOTE]
    lines += [
        f"{len(INVARIANTS)} promises. A run in which one judged no case, or missed one of the regimes it must meet, exits 3.",
        "None applies to a case whose answer no loader could know, or that a release knows nothing of yet.",
    ]
    for item in INVARIANTS.values():
        regimes = ", ".join(f"`{r}`" for r in item.regimes)
        module = f"conformance/invariants/{item.theme}.py"
        concerned = [f"`{name}`" for name, family in FAMILIES.items() if item.concerns(family)]
        lines += ["", f"## `{item.name}`", "", item.promise, "", f"- **Catches**: {item.catches}"]
        why = "; ".join(reasons(item.applies))
        lines += [
            f"- **Must meet**: {regimes}",
            f"- **Does not apply**: {why}" if why else "- **Applies** to every case",
        ]
        if len(concerned) < len(FAMILIES):
            lines.append(f"- **Families**: {', '.join(concerned)}")
        lines.append(f"- **Defined in**: [{module}](../{module})")
    return "\n".join(lines) + "\n"


def reasons(applies: Callable[..., str | None]) -> list[str]:
    """Why a case can be none of an invariant's business: the texts that its ``applies`` returns, read off its source.

    What is known only on a case is left out, and shown as an ellipsis inside a text.
    """
    scope = inspect.getclosurevars(applies)
    names = {**scope.globals, **scope.nonlocals}
    tree = ast.parse(textwrap.dedent(inspect.getsource(applies)))
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    return list(dict.fromkeys(text for value in returned for text in _texts(value, names)))


def _texts(value: ast.expr | None, names: dict[str, Any]) -> Iterator[str]:
    """The texts an expression can be."""
    match value:
        case ast.Lambda(body=body):
            yield from _texts(body, names)
        case ast.IfExp(body=one, orelse=other):
            yield from (*_texts(one, names), *_texts(other, names))
        case ast.BoolOp(values=parts):
            yield from (text for part in parts for text in _texts(part, names))
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.Name(id=name) if isinstance(names.get(name), str):
            yield names[name]
        case ast.Call(func=ast.Name(id=name)) if name in names:
            yield from reasons(names[name])


def families() -> str:
    """Every format: where it comes from, since when timm reads it, which registered models use it."""
    lines = [
        "# Checkpoint families",
        "",
        _NOTE,
        "A family that shares another's layout differs in the loader's options, its wrappers or its models.",
        "",
        "| family | upstream source | layout | wrappers and prefixes | timm module | first release | timm models |",
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for f in FAMILIES.values():
        models = models_of(f)
        text = f"{len(models)}, e.g. `{models[0].name}`"
        layout = f"`{f.shares_format}`" if f.shares_format else "its own"
        wrappers = ", ".join(
            f"`{w}`" + (f" ({f.wrapper_since[w]})" if w in f.wrapper_since else "") for w in dict.fromkeys(f.wrappers)
        )
        lines.append(f"| `{f.name}` | {f.source} | {layout} | {wrappers} | `{f.module}` | {f.first_release} | {text} |")
    return "\n".join(lines) + "\n"


def ledger() -> str:
    """Every known bug, with its range and explanation."""
    book = load_ledger(DEFAULT_LEDGER)
    lines = ["# Known bugs", "", _NOTE]
    lines += ["What the fields mean and how to add an entry: [ledger-format.md](ledger-format.md)."]
    for e in book.entries:
        link = f" ([upstream]({e.link}))" if e.link else ""
        lines += ["", f"## `{e.id}`", "", f"{e.title}{link}.", "", e.explanation.strip().replace("\n", " "), ""]
        lines += [f"- {e.kind}, timm `{e.releases}`" + (f", torch `{e.torch}`" if e.torch else "")]
        lines += [f"- families: {', '.join(e.families)}", f"- regime: {' or '.join(f'`{r}`' for r in e.regime)}"]
        lines += [f"- smallest case: {book.witnesses[e.id].case.describe()}"]
    return "\n".join(lines) + "\n"


_KINDS = {
    "bug": "Bugs",
    "limitation": "Limitations",
    "dependency": "Faults of a dependency that timm's results show",
}


def findings() -> str:
    """What is wrong in the newest release judged, each finding with a script that shows it, for a maintainer to read."""
    release = Version(MODEL_RELEASE)
    book = load_ledger(DEFAULT_LEDGER)
    live = [e for e in book.entries if e.range.contains(release) and not e.view_of]
    lines = [f"# Findings in timm {release}", "", _NOTE]
    lines += [
        f"{len(live)} live entries of the [ledger](ledger.md). Each script needs torch and timm only, exits 1 when the fault is",
        "there and 0 when it is not; `tests/test_findings.py` runs every one. They lie in `fixtures/reproducers/`.",
    ]
    for kind, title in _KINDS.items():
        lines += ["", f"## {title}"]
        for e in (e for e in live if e.kind == kind):
            shown = [name for name in FAMILIES if e.concerns(name)]
            lines += ["", f"### {e.title}", "", e.explanation.strip().replace("\n", " "), ""]
            lines += [f"- ledger entry `{e.id}`; timm `{e.releases}`" + (f", torch `{e.torch}`" if e.torch else "")]
            lines += [f"- families: {', '.join(f'`{name}`' for name in shown)}"]
            lines += [f"- smallest case: {book.witnesses[e.id].case.describe()}", "", *_script(f"{e.id}.py")]
    lines += [
        "",
        "## Beside the loader",
        "",
        "Every tensor is loaded right; the model computes something else with them.",
    ]
    for path in sorted((REPRODUCERS / "beside-the-loader").glob("*.py")):
        lines += ["", f"### {path.stem.replace('-', ' ')}", "", *_script(f"beside-the-loader/{path.name}")]
    return "\n".join(lines) + "\n"


def _script(name: str) -> list[str]:
    return ["```python", (REPRODUCERS / name).read_text(encoding="utf-8").rstrip(), "```"]


EXITS = {
    EXIT_EXPECTED: "as expected: everything is as the ledger says",
    EXIT_FAILURE: "a new failure, or a ledger entry that no longer fails",
    EXIT_USAGE: "usage or environment: an unknown name, an unreadable file, a target that cannot run",
    EXIT_VACUOUS: "vacuous: an invariant judged no case, or missed a regime it must meet",
}


def exit_codes() -> str:
    """The exit codes, as a table."""
    return "\n".join(
        ["| exit code | meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXITS.items())]
    )


def commands() -> str:
    """The command line: arguments, options and defaults of every command, as its own help has them."""
    lines = ["# Commands", "", _NOTE, "```"]
    contexts = {
        name: click.Context(command, info_name=name, parent=click.Context(command_line, info_name="timm-conformance"))
        for name, command in command_line.commands.items()
    }
    lines += [" ".join([c.command_path, *c.command.collect_usage_pieces(c)]) for c in contexts.values()]
    lines += ["```", "", exit_codes(), "", "A target is `timm==VERSION`, `path:DIR`, `installed`, `reference` or"]
    lines += ["`loader:MODULE:FUNCTION`; `loader:MODULE:FUNCTION@TIMM` names the timm whose models it fills."]
    for name, context in contexts.items():
        lines += ["", f"## `{name}`", "", inspect.cleandoc(context.command.help)]
        rows = [_option(p, context) for p in context.command.params if isinstance(p, click.Option)]
        lines += ["", "| option | what it does |", "|---|---|", *rows] if rows else []
    return "\n".join(lines) + "\n"


def _option(option: click.Option, context: click.Context) -> str:
    """A table row of an option: its names, what it does, its default."""
    names, text = (" ".join(part.split()).replace("|", "\\|") for part in option.get_help_record(context))
    return f"| `{names}` | {text} |"


def schema() -> str:
    """JSON Schema of one line of ``results.ndjson``."""
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of results.ndjson",
        "description": "One record of a run. A reader skips types that it does not know, and fields.",
    }
    found = msgspec.json.schema(Record)
    for record in found["$defs"].values():
        record["description"] = inspect.cleandoc(record["description"])
    return json.dumps(about | found, indent=1, ensure_ascii=False) + "\n"


PAGES = {
    "commands.md": commands,
    "families.md": families,
    "findings.md": findings,
    "invariants.md": invariants,
    "ledger.md": ledger,
    "results.schema.json": schema,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
