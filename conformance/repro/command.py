"""``repro``: the script of a known bug, or of a failure that a run stored, and the text of an upstream report."""

from __future__ import annotations

from pathlib import Path

import click
from packaging.version import Version

from ..errors import EXIT_EXPECTED, UserError, unknown
from ..ledger.entries import DEFAULT_LEDGER, Entry, Ledger, load_ledger
from ..ledger.witnesses import WitnessFile, read_witness
from ..targets import releases
from ..targets.target import DEFAULT_TARGETS, parse_target, prepare
from .issue import issue_text
from .verification import Script, script_of


def repro(
    subject: str, *, target: str | None, out: Path | None, issue: bool, timeout: float, ledger: str | None
) -> int:
    """Write the script of a failure, having seen it fail, to ``out`` or standard output; returns the exit code."""
    book = load_ledger(ledger or DEFAULT_LEDGER)
    name, witness, entry, also = _subject(subject, book)
    chosen = parse_target(target or _default_target(name, entry))
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"-o {out}: there is no folder {out.parent}")
    prepare(chosen)
    script = script_of(name, witness, entry, chosen, timeout, traced=issue)
    text = issue_text(witness, entry, script, timeout) if issue else script.text
    _tell(name, script, also)
    if out is None:
        click.echo(text, nl=False)
        return EXIT_EXPECTED
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"-o {out}: {error.strerror}") from None
    click.echo(f"written to {out}", err=True)
    return EXIT_EXPECTED


def _tell(name: str, script: Script, also: list[str]) -> None:
    """What was seen of a script, beside it: not in it."""
    click.echo(f"{name} on {script.target.spec}: exit code 1, got {script.ran.got}", err=True)
    if script.mended is not None:
        click.echo(f"{name} on {script.mended.spec}: exit code 0", err=True)
    if also:
        click.echo(f"under the same number: {', '.join(also)}", err=True)


def _subject(subject: str, book: Ledger) -> tuple[str, WitnessFile, Entry | None, list[str]]:
    """The failure that an id of the ledger, an upstream issue's number or a witness file names, and further ids."""
    number = subject.removeprefix("#")
    linked = [e for e in book.entries if number.isdecimal() and e.link.rstrip("/").endswith(f"/{number}")]
    if linked:
        return linked[0].id, book.witnesses[linked[0].id], linked[0], [e.id for e in linked[1:]]
    entry = book.entry(subject)
    if entry is not None:
        return entry.id, book.witnesses[entry.id], entry, []
    path = Path(subject)
    if path.suffix == ".json":
        return path.stem, read_witness(path), None, []
    raise unknown("ledger entry, issue or witness file", subject, [e.id for e in book.entries])


def _default_target(name: str, entry: Entry | None) -> str:
    """The target a run would judge first that has an entry's bug, else the newest release that does."""
    if entry is None:
        raise UserError(f"{name}: which target does it fail on? Name it with --target, for example timm==1.0.31")
    usual = [t for t in DEFAULT_TARGETS if t.startswith("timm==") and entry.range.contains(t.removeprefix("timm=="))]
    if usual:
        return usual[-1]
    having = [v for v in releases.cached() if entry.range.contains(Version(v))]
    if not having:
        having, _ = releases.matching(entry.releases)
    return f"timm=={having[-1]}"
