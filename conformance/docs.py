"""The reference pages of docs/, written from the registries: ``python -m conformance.docs``. A test keeps them true."""

from __future__ import annotations

from pathlib import Path

from packaging.version import Version

from . import ledger as ledgers
from .catalogue import models_of
from .families import FAMILIES
from .invariants import INVARIANTS
from .targets import MODEL_RELEASE

REPRODUCERS = ledgers.FIXTURES / "reproducers"
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


_KINDS = {
    "bug": "Bugs",
    "limitation": "Limitations",
    "dependency": "Faults of a dependency that timm's results show",
}


def findings() -> str:
    """What is wrong in the newest release judged, each finding with a script that shows it, for a maintainer to read."""
    release = Version(MODEL_RELEASE)
    book = ledgers.load(ledgers.DEFAULT_PATH)
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


PAGES = {"invariants.md": invariants, "families.md": families, "ledger.md": ledger, "findings.md": findings}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
