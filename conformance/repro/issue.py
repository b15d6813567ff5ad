"""The text of an issue for timm: what happens, what should happen, why, the releases that have the bug, and the script."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

from packaging.version import Version

from ..families import FAMILIES
from ..ledger.entries import Entry
from ..ledger.witnesses import WitnessFile
from ..targets import releases
from ..targets.target import parse_target
from .execution import ScriptRun, execute
from .verification import Script


def issue_text(witness: WitnessFile, entry: Entry | None, script: Script, timeout: float) -> str:
    """Markdown text that can be filed as it is, after somebody has read it."""
    ran = script.ran
    title = entry.title if entry else f"{witness.case.family} checkpoint: {ran.got}"
    happens = f"Loading a checkpoint of the `{witness.case.family}` format with timm {ran.timm} gives:\n\n"
    affected = f"## Releases\n\n{_affected(witness, entry, script, timeout)}"
    return sections(title, happens, ran, _why(entry, script), affected, script.text)


def sections(title: str, happens: str, ran: ScriptRun, why: str, seen_with: str, script: str) -> str:
    """The sections of an issue in their order; ``seen_with`` is one with its heading, ``happens`` precedes what the run got."""
    parts = [
        f"# {title}",
        f"## What happens\n\n{happens}```\n{ran.got}\n```",
        f"## What should happen\n\n```\n{ran.expected}\n```",
        f"## Why\n\n{why}",
        seen_with,
        "## To reproduce\n\nThe script exits with 1 while the bug is there, and with 0 once it is gone.\n\n"
        f"```python\n{script.rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _why(entry: Entry | None, script: Script) -> str:
    paragraphs = [entry.explanation] if entry else []
    places = list(dict.fromkeys([*script.resampled, *filter(None, [script.ended])]))
    if places:
        told = "The lines at which this load resamples, and at last leaves the loader:"
        paragraphs.append("\n".join([told, "", "```", *places, "```"]))
    return "\n\n".join(paragraphs) or "Nothing is known but what the script shows."


def _affected(witness: WitnessFile, entry: Entry | None, script: Script, timeout: float) -> str:
    """The releases that have the bug: those of the ledger's entry; without one, the cached releases in which the script fails."""
    here = (
        f"Seen with timm {script.ran.timm}, torch {version('torch').split('+')[0]}, Python {platform.python_version()}."
    )
    if entry:
        mended = f" Not there in {script.fixed.value}." if script.fixed else ""
        return f"timm {entry.releases}. {here}{mended}"
    known = [v for v in releases.cached() if FAMILIES[witness.case.family].supported_by(Version(v))]
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda v: execute(script.text, parse_target(f"timm=={v}"), timeout).code, known))
    having = [v for v, code in zip(known, codes) if code == 1]
    rest = [v for v, code in zip(known, codes) if code == 0]
    return f"{here} Of the releases tried, {_listed(having)} have it" + (
        f", {_listed(rest)} have not." if rest else "."
    )


def _listed(versions: list[str]) -> str:
    return ", ".join(versions) or "none"
