"""Concludes a set of results, shows them, and writes every report of a run or a merge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..families import FAMILIES
from ..ledger.entries import Ledger
from ..ledger.settling import settle_results
from ..ledger.witnesses import file_name, witnesses_of, write_witness
from ..results import records
from ..results.causes import by_cause
from ..results.merging import footer_of, merge_results, shards_of
from ..results.outcome import exit_code, vacuous
from ..results.records import Results
from ..results.writing import write_whole
from . import html, junit, markdown, terminal
from .explained import SCRIPTS, script_path
from .terminal import Paths

RESULTS = "results.ndjson"
SUMMARY = "summary.md"
REPORT = "report.html"


def make_folder(out: Path, option: str = "--out") -> Path:
    """The folder to write to; it is made if it does not exist. Raises :class:`UserError`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {out}: {error.strerror}") from None
    return out


def read(path: Path) -> Results:
    """Read results from a file, or from the folder that a run wrote. Raises :class:`UserError` if there are none."""
    file = path / RESULTS if path.is_dir() else path
    try:
        found = records.read(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not found:
        what = "it holds no results" if file.is_file() else f"there is no {file}"
        raise UserError(f"{path}: {what}; name a folder that a run wrote, or its {RESULTS}")
    return Results(found)


def is_cut_off(found: Results) -> bool:
    """Whether results have no end: a run was cut off, or its file was."""
    return not found.footers


def find_gaps(found: Results, parts: Sequence[Results]) -> list[str]:
    """What was not judged: missing shards, or invariants and regimes for which the whole run had no case.

    One shard alone has no gaps, because another shard may have met what it lacks. A hunt whose first round was cut off has
    none either.
    """
    held, missing = shards_of(parts)
    if missing:
        here = ", ".join(held)
        return [f"shard {shard} is missing: results of {here} are here" for shard in missing if len(held) > 1]
    if found.rounds and not any(r.whole for r in found.rounds):
        return []
    families = found.families
    return vacuous(found, families, narrowed=len(families) < len(FAMILIES))


def conclude(
    parts: Sequence[Results], known_bugs: Ledger, targets: Sequence[str] = ()
) -> tuple[Results, list[str], int]:
    """Merge and settle results, and add a footer. Returns the results, what was not judged, and the exit code."""
    found = settle_results(merge_results(parts), known_bugs, targets)
    gaps = find_gaps(found, parts)
    code = exit_code(found, gaps)
    found.add(footer_of(parts, code))
    return found, gaps, code


def publish(
    found: Results, gaps: list[str], code: int, known_bugs: Ledger, out: Path, junit_path: Path | None = None
) -> None:
    """Write results, summary and report to a folder, and JUnit XML if ``junit_path`` is given."""
    found.write(out / RESULTS)
    write_whole(out / SUMMARY, markdown.summary(found, known_bugs, gaps, code))
    write_whole(out / REPORT, html.render(found, known_bugs, gaps))
    if junit_path is not None:
        junit.write(found, junit_path)


def show(
    console: Console, found: Results, gaps: Iterable[str], known_bugs: Ledger, witnesses: Paths, scripts: Paths
) -> None:
    """Show the results on a terminal, with the witness and script of each new failure."""
    terminal.print_table(console, found)
    terminal.print_known(console, found, known_bugs)
    terminal.print_probes(console, found)
    terminal.print_changes(console, found)
    terminal.print_failures(console, found, witnesses, scripts)
    for gap in gaps:
        console.print(f"? not judged: {gap}", style="yellow", markup=False, soft_wrap=True)
    console.print()
    for line in terminal.denominator(found):
        console.print(line, markup=False, soft_wrap=True)


def store_scripts(found: Results, out: Path) -> Paths:
    """Write the script of each cause of new failures; returns them by target and fingerprint. Those of earlier runs go."""
    for target in found.targets:
        for outdated in (out / SCRIPTS / file_name(target)).glob("*.py"):
            outdated.unlink()
    written: dict[tuple[str, str], Path] = {}
    for group in by_cause(found):
        if group.script:
            path = script_path(out, group)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, group.script)
            written |= {(n.target, n.failure.fingerprint): path for n in group.failures}
    return written


def store_witnesses(found: Results, out: Path) -> Paths:
    """Write a witness file for each new failure; returns them by target and fingerprint."""
    return {
        (verdict.target, failure.fingerprint): write_witness(
            witnesses_of(verdict.target, out), verdict.invariant, failure
        )
        for verdict in found.verdicts
        for failure in verdict.failures
    }
