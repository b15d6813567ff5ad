"""Writes the generated pages of docs/ from the registries: ``python -m timm_conformance.cli.docs``.

``tests/test_docs.py`` compares the pages with what this module writes.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import click
import msgspec
from packaging.version import Version

from ..cases.fixtures import CHECKOUT
from ..errors import (
    EXIT_EXPECTED,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_PIPE_CLOSED,
    EXIT_USAGE,
    EXIT_VACUOUS,
)
from ..families import FAMILIES, READ
from ..invariants import INVARIANTS
from ..ledger.entries import DEFAULT_LEDGER, REPRODUCERS, Entry, load_ledger
from ..probes.registry import FOLDER as PROBES
from ..results.records import Record
from ..targets.doors import DOORS
from ..targets.target import MODEL_RELEASE
from .families_page import NOTE, codes, families
from .main import main as command_line


def invariants() -> str:
    """Every invariant: its statement, what a violation looks like, the regimes it must have met, when it does not apply."""
    lines = ["# Invariants", "", NOTE]
    lines += [
        f"{len(INVARIANTS)} invariants. A run exits with 3 if an invariant judged no case, or missed a regime that it must meet.",
        "No invariant applies to a case whose right answer no loader could know, or to one that a release does not support.",
    ]
    for item in INVARIANTS.values():
        regimes = codes(item.regimes)
        module = f"conformance/invariants/{item.theme}.py"
        concerned = [name for name, family in FAMILIES.items() if item.concerns(family)]
        lines += ["", f"## `{item.name}`", "", item.statement, "", f"- **Catches**: {item.catches}"]
        why = "; ".join(reasons(item.applies))
        lines += [
            f"- **Must meet**: {regimes}",
            f"- **Does not apply**: {why}" if why else "- **Applies** to every case",
        ]
        if concerned not in (list(FAMILIES), list(READ)):
            lines.append(f"- **Families**: {codes(concerned)}")
        if item.timm_alone:
            lines.append("- **Targets**: timm; the reference and functions under test have no such calls")
        lines.append(f"- **Defined in**: `{module}`")
    lines += [
        "",
        "## Doors",
        "",
        "The ways to the same model that `doors-agree` compares with `create_model` and a file:",
        "",
    ]
    lines += ["| door | what it is |", "|---|---|", *(f"| `{d.name}` | {d.statement} |" for d in DOORS.values())]
    return "\n".join(lines) + "\n"


def reasons(applies: Callable[..., str | None]) -> list[str]:
    """The reasons why an invariant may not apply to a case: the texts that its ``applies`` returns, read from its source.

    A part that is known only for a case is shown as an ellipsis; a text that is known only for a case is left out.
    """
    scope = inspect.getclosurevars(applies)
    names = {**scope.globals, **scope.nonlocals}
    tree = ast.parse(textwrap.dedent(inspect.getsource(applies)))
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    return list(dict.fromkeys(text for value in returned for text in _texts(value, names)))


def _texts(value: ast.expr | None, names: dict[str, Any]) -> Iterator[str]:
    """The texts that an expression can evaluate to."""
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
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.Name(id=name) if isinstance(names.get(name), str):
            yield names[name]
        case ast.Call(func=ast.Name(id=name)) if name in names:
            yield from reasons(names[name])


def ledger() -> str:
    """Every known bug, with its range and explanation."""
    known_bugs = load_ledger(DEFAULT_LEDGER)
    lines = ["# Known bugs", "", NOTE]
    lines += ["What the fields mean and how to add an entry: [ledger-format.md](ledger-format.md)."]
    for e in known_bugs.entries:
        link = f" ([upstream]({e.link}))" if e.link else ""
        lines += ["", f"## `{e.id}`", "", f"{e.title}{link}.", "", e.explanation.strip().replace("\n", " "), ""]
        where = [f"timm `{e.releases}`"] if e.releases else []
        lines += [f"- {', '.join([e.kind, *where, *_probe(e)])}"]
        lines += [f"- families: {codes(e.families)}", f"- regime: {' or '.join(f'`{r}`' for r in e.regime)}"]
        if e.since:
            lines += ["- " + "; ".join(f"`{family}` since {first}" for family, first in e.since.items())]
        lines += [f"- smallest case: {known_bugs.witnesses[e.id].case.describe()}"]
    return "\n".join(lines) + "\n"


# Each kind of a ledger entry: its heading, and its name in a count of one and of several.
_KINDS = {
    "bug": ("Bugs", "known bug", "known bugs"),
    "limitation": ("Limitations", "known limitation", "known limitations"),
    "dependency": ("Faults of a dependency", "fault of a dependency", "faults of a dependency"),
}


def _counts(entries: list[Entry]) -> str:
    """``39 known bugs, 6 known limitations and 1 fault of a dependency``."""
    found: Counter[str] = Counter(e.kind for e in entries)
    *first, last = (f"{found[kind]} {one if found[kind] == 1 else many}" for kind, (_, one, many) in _KINDS.items())
    return f"{', '.join(first)} and {last}"


def _probe(entry: Entry) -> list[str]:
    """Where the fault of a dependency is asked for; nothing for other entries."""
    return [f"where the probe [`{entry.probe}`](ledger-format.md#probes) finds it"] if entry.probe else []


def _script(path: Path) -> str:
    """A link to a script of ``fixtures/reproducers`` or a probe; mkdocs_hooks.py makes it one on the site as well."""
    for folder, link in ((REPRODUCERS, "fixtures/reproducers"), (PROBES, "conformance/probes")):
        if path.is_relative_to(folder):
            name = path.relative_to(folder).as_posix()
            return f"[`{name}`](../{link}/{name})"
    raise ValueError(f"{path} lies in no folder of scripts")


def findings() -> str:
    """What is wrong in the newest release judged. Each cause is one finding, with the script that reproduces it."""
    release = Version(MODEL_RELEASE)
    known_bugs = load_ledger(DEFAULT_LEDGER)
    live = [e for e in known_bugs.entries if e.names(release)]
    causes = [e for e in live if not e.view_of]
    lines = [f"# Findings in timm {release}", "", NOTE]
    lines += [
        f"timm {release} has {_counts(causes)} in the [ledger](ledger.md). Ledger entries with one cause count once.",
        "",
        "Each finding has a script. A script needs only torch and timm; that of a dependency's fault needs torch alone. It exits",
        "with 1 where the fault is present and with 0 where it is not. `timm-conformance repro ID` runs the script of a ledger",
        "entry and prints it. With `--issue` it prints the text of an upstream report.",
    ]
    for kind, (title, _, _) in _KINDS.items():
        lines += ["", f"## {title}"]
        for e in (e for e in causes if e.kind == kind):
            lines += ["", f"### {e.title}", "", e.explanation.strip().replace("\n", " "), ""]
            lines += [f"- Ledger entry: [`{e.id}`](ledger.md#{e.id}), timm `{e.releases}`"]
            lines[-1] += "".join(f", {text}" for text in _probe(e))
            for view in (v for v in live if v.view_of == e.id):
                lines += [f"- Same cause: [`{view.id}`](ledger.md#{view.id}). {view.title}"]
            lines += [f"- Families: {codes(n for n, f in FAMILIES.items() if e.concerns(n) and not f.in_no_release)}"]
            lines += [f"- Smallest case: {known_bugs.witnesses[e.id].case.describe()}"]
            lines += [f"- Upstream: <{e.link}>"] if e.link else []
            lines += [f"- Script: {_script(e.script)}, or `timm-conformance repro {e.id}`"] if e.script else []
    lines += [
        "",
        "## Outside the loader",
        "",
        "The loader loads every tensor correctly, and the model computes something else with them.",
    ]
    for path in sorted((REPRODUCERS / "beside-the-loader").glob("*.py")):
        title, _, explanation = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")
        lines += ["", f"### {title.rstrip('.')}", "", explanation.replace("\n", " "), ""]
        lines += [f"- Script: {_script(path)}"]
    return "\n".join(lines) + "\n"


EXITS = {
    EXIT_EXPECTED: "as expected: everything is as the ledger says",
    EXIT_FAILURE: "a new failure, or a ledger entry that no longer fails",
    EXIT_USAGE: "usage or environment: an unknown name, an unreadable file, a target that cannot run",
    EXIT_VACUOUS: "vacuous: an invariant judged no case, missed a regime it must meet, or results were cut off",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C; what was judged is in the results",
    EXIT_PIPE_CLOSED: "pipe closed: the reader of the output went away",
}


def exit_codes() -> str:
    """The exit codes, as a table."""
    return "\n".join(
        ["| exit code | meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXITS.items())]
    )


def commands() -> str:
    """Every command with its arguments, options and defaults, taken from its help text."""
    lines = ["# Commands", "", NOTE, "```"]
    contexts = {
        name: click.Context(command, info_name=name, parent=click.Context(command_line, info_name="timm-conformance"))
        for name, command in command_line.commands.items()
    }
    lines += [" ".join([c.command_path, *c.command.collect_usage_pieces(c)]) for c in contexts.values()]
    lines += ["```", "", exit_codes(), "", "A target is `timm==VERSION`, `path:DIR`, `installed`, `reference` or"]
    lines += ["`loader:MODULE:FUNCTION`; `loader:MODULE:FUNCTION@TIMM` names the timm whose models it fills."]
    for name, context in contexts.items():
        lines += ["", f"## `{name}`", "", inspect.cleandoc(context.command.help or "")]
        rows = [_option(p, context) for p in context.command.params if isinstance(p, click.Option)]
        lines += ["", "| option | what it does |", "|---|---|", *rows] if rows else []
    return "\n".join(lines) + "\n"


def _option(option: click.Option, context: click.Context) -> str:
    """A table row of an option: its names, what it does, its default.

    A ``|`` would end the cell. It is written as an entity, which every Markdown renderer shows as ``|``, unlike ``\\|`` in
    code. Entities inside backticks are not decoded, so such names are in a ``code`` element.
    """
    names, text = (" ".join(part.split()) for part in option.get_help_record(context) or ("", ""))
    code = f"<code>{_without_bars(escape(names))}</code>" if "|" in names else f"`{names}`"
    return f"| {code} | {_without_bars(text)} |"


def _without_bars(text: str) -> str:
    return text.replace("|", "&#124;")


def schema() -> str:
    """The JSON Schema of one line of ``results.ndjson``."""
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of results.ndjson",
        "description": "One record of a run. A reader skips record types and fields that it does not know.",
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
    if CHECKOUT is None:
        click.echo(
            "timm_conformance.cli.docs: only a checkout has the pages of docs/; this is an installed package", err=True
        )
        sys.exit(EXIT_USAGE)
    for name, page in PAGES.items():
        (CHECKOUT / "docs" / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
