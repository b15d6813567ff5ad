"""The page of checkpoint families, docs/families.md; and what the generated pages share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..drawing.catalogue import models_of
from ..drawing.configurations import RULES, configurations, rule_for
from ..families import FAMILIES

NOTE = "<!-- Written by `python -m timm_conformance.cli.docs` from the registries: edit those, not this page. -->\n"


def codes(names: Iterable[str]) -> str:
    """Names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def families() -> str:
    """Every family: its upstream source, the timm releases that know and convert it, the registered models that use it."""
    lines = [
        "# Checkpoint families",
        "",
        NOTE,
        "A family that shares the layout of another family differs from it in loader options, wrappers or models.",
        "",
        "| family | upstream source | layout | wrappers and prefixes | timm module | known since | complete | timm models |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for f in FAMILIES.values():
        models = models_of(f)
        text = f"{len(models)}, e.g. `{models[0].name}`"
        layout = "none that a loader reads" if f.unread else f"`{f.shares_format}`" if f.shares_format else "its own"
        since = "none | none" if f.unread or f.in_no_release else f"{f.known_since} | {f.first_complete}"
        wrappers = ", ".join(
            f"`{w}`" + (f" ({f.wrapper_since[w]})" if w in f.wrapper_since else "") for w in dict.fromkeys(f.wrappers)
        )
        lines.append(f"| `{f.name}` | {f.source} | {layout} | {wrappers} | `{f.module}` | {since} | {text} |")
    lines += _ambiguities() + _configurations()
    return "\n".join(lines) + "\n"


def _ambiguities() -> list[str]:
    lines = [
        "",
        "## Where a file does not say all",
        "",
        "The same weights, in the upstream layout and in timm's, resample to the same tensors (`no-early-return`). These "
        "families are exceptions, or follow a rule that no tensor tells:",
        "",
    ]
    told: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        told.setdefault(family.ambiguity, []).append(family.name)
    return lines + [f"- {codes(names)}: {text}" for text, names in told.items() if text]


def _configurations() -> list[str]:
    """What upstream packages publish, and the family that draws it or the reason why none does."""
    lines = [
        "",
        "## Published configurations",
        "",
        "Each configuration that a package ships is drawn by a family, in small sizes, or it is said why not. Of timm's "
        "registered names the table has those that no family above claims.",
        "",
        "| package | configurations | drawn |",
        "|---|---|---|",
    ]
    for package, found in configurations().items():
        decided = {name: rule_for(package, name, options) for name, options in found.items()}
        for rule in RULES:
            names = [name for name, by in decided.items() if by is rule]
            drawn = f"as `{rule.family}`{_with(rule.arch)}" if rule.family else f"no: {rule.why}"
            lines += [f"| {package} | {len(names)}: {codes(names)} | {drawn} |"] if names else []
    return lines


def _with(arch: Mapping[str, Any]) -> str:
    said = ", ".join(f"`{name}={value}`" for name, value in arch.items())
    return f" with {said}" if said else ""
