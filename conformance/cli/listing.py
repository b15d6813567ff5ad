"""``list``: shows the registries as tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from ..errors import UserError, choose
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..report.terminal import make_console
from ..targets import releases


def _families() -> list[dict[str, Any]]:
    from ..drawing.catalogue import models_of
    from ..families import FAMILIES

    return [
        {
            "name": f.name,
            "module": f.module,
            "known_since": f.known_since,
            "complete_since": f.first_complete,
            "source": f.source,
            "models": [m.name for m in models_of(f)],
        }
        for f in FAMILIES.values()
    ]


def _options(families: Sequence[str]) -> list[dict[str, Any]]:
    from ..drawing.options import options_of
    from ..families import FAMILIES

    return [
        {"family": name, "of": of, "option": option, "values": values}
        for name in choose("family", families, FAMILIES)
        for of, option, values in options_of(FAMILIES[name])
    ]


def _invariants() -> list[dict[str, Any]]:
    from ..invariants import INVARIANTS

    return [
        {"name": i.name, "theme": i.theme, "statement": i.statement, "catches": i.catches, "regimes": list(i.regimes)}
        for i in INVARIANTS.values()
    ]


def _ledger(path: str | None) -> list[dict[str, Any]]:
    known_bugs = load_ledger(path or DEFAULT_LEDGER)
    return [{name: getattr(e, name) for name in e.__struct_fields__} for e in known_bugs.entries]


def _releases() -> list[dict[str, Any]]:
    return [{"release": r, "target": f"timm=={r}"} for r in releases.cached()]


# Columns of each table; the JSON has everything.
_COLUMNS = {
    "families": ("name", "module", "known_since", "complete_since", "models", "source"),
    "options": ("family", "of", "option", "values"),
    "invariants": ("name", "theme", "statement"),
    "ledger": ("id", "kind", "releases", "title"),
    "releases": ("release", "target"),
}


def show(what: str, families: Sequence[str], form: str, ledger: str | None = None) -> None:
    """Print one registry; of options those of ``families``, or of all. Raises :class:`UserError` for an unknown family."""
    if families and what != "options":
        raise UserError(f"--family goes with list options, not with list {what}")
    registries: dict[str, Callable[[], list[dict[str, Any]]]]
    registries = {"families": _families, "invariants": _invariants, "releases": _releases}
    registries |= {"options": lambda: _options(families), "ledger": lambda: _ledger(ledger)}
    rows = registries[what]()
    if form == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(header_style="bold")
    for column in _COLUMNS[what]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_text(column, row[column]) for column in _COLUMNS[what]))
    console = make_console()
    console.print(table)
    if what == "releases" and not rows:
        console.print(f"no release is cached in {releases.cache_dir()}; `timm-conformance run` fetches what it needs")


def _text(column: str, value: Any) -> str:
    if column == "models":
        return f"{len(value)}, e.g. {value[0]}" if value else "0"
    return ", ".join(str(v) if v != "" else "(empty)" for v in value) if isinstance(value, list) else str(value)
