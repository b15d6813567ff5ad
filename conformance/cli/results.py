"""The commands that work on existing results: ``report``, ``merge``, ``diff``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_VACUOUS, UserError
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..report import publish
from ..report.terminal import make_console
from ..results.diffing import KINDS, Difference, difference
from ..results.records import Footer, Results
from ..results.shards import parse_shard

_CUT_OFF = "the results were cut off before their end; `run --resume` into the same folder judges the rest"


def report(path: Path, *, junit: Path | None, ledger: str | None) -> int:
    """Write the reports of results again, with the current ledger; returns the exit code of the results."""
    return _conclude([publish.read(path)], path if path.is_dir() else path.parent, junit, ledger)


def merge(paths: Sequence[Path], *, out: Path, junit: Path | None, ledger: str | None) -> int:
    """Merge results, later ones over earlier ones, shards in their order; returns the exit code."""
    folders = {(path if path.is_dir() else path.parent).resolve() for path in paths}
    if out.resolve() in folders:
        raise UserError(f"-o {out}: it holds results that are to be merged; name another folder")
    parts = [publish.read(path) for path in paths]
    if all(part.footers and part.footers[-1].shards for part in parts):
        parts.sort(key=lambda part: parse_shard(part.footers[-1].shards[0]))
    return _conclude(parts, publish.make_folder(out), junit, ledger)


def _conclude(parts: Sequence[Results], out: Path, junit: Path | None, ledger: str | None) -> int:
    console, known_bugs = make_console(), load_ledger(ledger or DEFAULT_LEDGER)
    found, gaps, code = publish.conclude(parts, known_bugs)
    if any(publish.is_cut_off(part) for part in parts):
        gaps.append(_CUT_OFF)
        code = code or EXIT_VACUOUS
        found = Results(r for r in found.records if not isinstance(r, Footer))  # what is written is cut off as well
    publish.publish(found, gaps, code, known_bugs, out, junit)
    witnesses, scripts = publish.store_witnesses(found, out), publish.store_scripts(found, out)
    publish.show(console, found, gaps, known_bugs, witnesses, scripts)
    console.print(f"results in {out}; exit code {code}", style="bold", markup=False)
    return code


def diff(old: Path, new: Path, *, form: str) -> int:
    """Print what differs between two results; returns 1 when there is a new failure, else 3 when one of them was cut off."""
    sides = {path: publish.read(path) for path in (old, new)}
    found = difference(sides[old], sides[new])
    {"table": _lines, "markdown": _markdown, "json": _json}[form](found)
    if any(d.kind == "new-failure" for d in found):
        return EXIT_FAILURE
    cut_off = [path for path, results in sides.items() if publish.is_cut_off(results)]
    for path in cut_off:
        print(f"{path}: {_CUT_OFF}", file=sys.stderr)
    return EXIT_VACUOUS if cut_off else EXIT_EXPECTED


def _where(d: Difference) -> str:
    return "  ".join(part for part in (d.target, ":".join(filter(None, (d.family, d.invariant)))) if part)


def _grouped(found: list[Difference]) -> dict[str, list[Difference]]:
    return {title: same for kind, title in KINDS.items() if (same := [d for d in found if d.kind == kind])}


def _lines(found: list[Difference]) -> None:
    console = make_console()
    for title, same in _grouped(found).items():
        console.print(f"{title} ({len(same)})", style="bold red" if same[0].kind == "new-failure" else "bold")
        for d in same:
            console.print(f"  {_where(d)}: {d.text}", markup=False, soft_wrap=True)
    console.print(
        ", ".join(f"{len(same)} {title.lower()}" for title, same in _grouped(found).items()) or "no difference"
    )


def _markdown(found: list[Difference]) -> None:
    for title, same in _grouped(found).items():
        print(f"## {title}\n")
        print("\n".join(f"- {_where(d)}: {d.text}" for d in same) + "\n")
    if not found:
        print("No difference.")


def _json(found: list[Difference]) -> None:
    print(json.dumps(msgspec.to_builtins(found), indent=2, ensure_ascii=False))
