"""The reference pages of docs/, written from the registries: ``python -m conformance.docs``. A test keeps them true."""

from __future__ import annotations

from pathlib import Path

from . import ledger as ledgers
from .catalogue import models_of
from .families import FAMILIES
from .invariants import INVARIANTS

FOLDER = Path(__file__).resolve().parent.parent / "docs"
_NOTE = "<!-- Written by `python -m conformance.docs` from the registries: edit those, not this page. -->\n"


def invariants() -> str:
    """Every promise: what it says, what breaking it looks like, what it must have met, when it does not apply."""
    lines = ["# Invariants", "", _NOTE]
    lines += ["A run in which an invariant judged no case, or missed one of its regimes, exits 3."]
    for item in INVARIANTS.values():
        regimes = ", ".join(f"`{r}`" for r in item.regimes)
        module = f"conformance/invariants/{item.theme}.py"
        lines += ["", f"## `{item.name}`", "", item.promise, "", f"- **Catches**: {item.catches}"]
        lines += [f"- **Must meet**: {regimes}", f"- **Defined in**: [{module}](../{module})"]
    return "\n".join(lines) + "\n"


def families() -> str:
    """Every format: where it comes from, since when timm reads it, which registered models use it."""
    lines = [
        "# Checkpoint families",
        "",
        _NOTE,
        "| family | upstream source | timm module | first release | timm models |",
    ]
    lines += ["|---|---|---|---|---|"]
    for f in FAMILIES.values():
        models = models_of(f)
        text = f"{len(models)}, e.g. `{models[0].name}`"
        lines.append(f"| `{f.name}` | {f.source} | `{f.module}` | {f.first_release} | {text} |")
    return "\n".join(lines) + "\n"


def ledger() -> str:
    """Every known bug, with its range and explanation."""
    book = ledgers.load(ledgers.DEFAULT_PATH)
    lines = ["# Known bugs", "", _NOTE]
    lines += ["What the fields mean and how to add an entry: [ledger-format.md](ledger-format.md)."]
    for e in book.entries:
        link = f" ([upstream]({e.link}))" if e.link else ""
        lines += ["", f"## `{e.id}`", "", f"{e.title}{link}.", "", e.explanation.strip().replace("\n", " "), ""]
        lines += [f"- {e.kind}, timm `{e.releases}`" + (f", torch `{e.torch}`" if e.torch else "")]
        lines += [f"- families: {', '.join(e.families)}", f"- regime: {' or '.join(f'`{r}`' for r in e.regime)}"]
        lines += [f"- smallest case: {book.witnesses[e.id].case.describe()}"]
    return "\n".join(lines) + "\n"


PAGES = {"invariants.md": invariants, "families.md": families, "ledger.md": ledger}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
