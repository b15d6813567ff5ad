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
from .library import library_issue, library_script, owning_entry
from .verification import Script, verified_script


def repro(
    subject: str, *, target: str | None, out: Path | None, issue: bool, timeout: float, ledger: str | None
) -> int:
    """Write the script of a failure to ``out`` or standard output, after a run in which it failed; returns the exit code."""
    known_bugs = load_ledger(ledger or DEFAULT_LEDGER)
    name, witness, entry, also = _subject(subject, known_bugs)
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"-o {out}: there is no folder {out.parent}")
    library = entry if entry is not None and entry.probe else None
    if entry is None:
        library = owning_entry(witness, known_bugs)
    if library is not None:
        text, ran = library_script(library, timeout)
        if issue:
            text = library_issue(library, text, ran)
        click.echo(
            f"{library.id}: exit code 1, got {ran.got}; the fault is the library's, so no timm is in it", err=True
        )
    else:
        chosen = parse_target(target or _default_target(name, entry, witness.case.family))
        prepare(chosen)
        script = verified_script(name, witness, entry, chosen, timeout, traced=issue)
        text = issue_text(witness, entry, script, timeout) if issue else script.text
        _report(name, script, also)
    if out is None:
        click.echo(text, nl=False)
        return EXIT_EXPECTED
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"-o {out}: {error.strerror}") from None
    click.echo(f"written to {out}", err=True)
    return EXIT_EXPECTED


def _report(name: str, script: Script, also: list[str]) -> None:
    """Print the outcome of a script's runs to standard error, since standard output may hold the script."""
    click.echo(f"{name} on {script.target.spec}: exit code 1, got {script.ran.got}", err=True)
    if script.fixed is not None:
        click.echo(f"{name} on {script.fixed.spec}: exit code 0", err=True)
    if also:
        click.echo(f"under the same number: {', '.join(also)}", err=True)


def _subject(subject: str, known_bugs: Ledger) -> tuple[str, WitnessFile, Entry | None, list[str]]:
    """The failure for a ledger id, an upstream issue's number or a witness file, and further ids with the same issue."""
    number = subject.removeprefix("#")
    linked = [e for e in known_bugs.entries if number.isdecimal() and e.link.rstrip("/").endswith(f"/{number}")]
    if linked:
        return linked[0].id, known_bugs.witnesses[linked[0].id], linked[0], [e.id for e in linked[1:]]
    entry = known_bugs.entry(subject)
    if entry is not None:
        return entry.id, known_bugs.witnesses[entry.id], entry, []
    path = Path(subject)
    if path.suffix == ".json":
        return path.stem, read_witness(path), None, []
    if number.isdecimal():
        raise UserError(_near(int(number), known_bugs))
    raise unknown("ledger entry, issue or witness file", subject, [e.id for e in known_bugs.entries])


_NEAR = 3


def _near(number: int, known_bugs: Ledger) -> str:
    """What is known near an issue that no entry links, in three lines."""
    linked = {int(e.link.rstrip("/").rpartition("/")[2]): e.id for e in known_bugs.entries if _ends_in_number(e.link)}
    nearest = sorted(linked, key=lambda n: abs(n - number))[:_NEAR]
    return (
        f"no ledger entry links issue #{number}\n"
        f"nearest by number: {', '.join(f'#{n} {linked[n]}' for n in sorted(nearest))}; see `timm-conformance list ledger`\n"
        "the checkpoint that the issue is about: `timm-conformance check FILE --model NAME` says what is wrong with its load"
    )


def _ends_in_number(link: str) -> bool:
    return link.rstrip("/").rpartition("/")[2].isdecimal()


def _default_target(name: str, entry: Entry | None, family: str) -> str:
    """The newest of a run's default targets that has an entry's bug in a family; if none has, the newest release that does."""
    if entry is None:
        raise UserError(f"{name}: which target does it fail on? Name it with --target, for example timm==1.0.31")

    def shows(version: Version) -> bool:
        return entry.names(version) and entry.on(version).concerns(family)

    usual = [t for t in DEFAULT_TARGETS if t.startswith("timm==") and shows(Version(t.removeprefix("timm==")))]
    if usual:
        return usual[-1]
    having = [v for v in releases.cached() if shows(Version(v))]
    if not having:
        having, _ = releases.matching(entry.releases)
    return f"timm=={having[-1]}"
