"""Handing out scripts: each is first run in a fresh interpreter, on the target and on a release that is said to be mended."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from ..errors import UserError
from ..ledger.entries import REPRODUCERS, Entry
from ..ledger.witnesses import WitnessFile, file_name, witness_of
from ..results.records import Results
from ..targets import releases
from ..targets.target import Target, parse_target
from . import worker
from .execution import Ran, execute
from .worker import Answer, Stored

SCRIPTS = "repro"


@dataclass(frozen=True)
class Script:
    """A script that was run: on the target, where it ended with 1, and on a mended release, if there is one, with 0.

    ``ended`` and ``resampled`` are lines of timm: :class:`timm_conformance.repro.trace.Trace`.
    """

    text: str
    target: Target
    ran: Ran
    mended: Target | None = None
    ended: str = ""
    resampled: tuple[str, ...] = ()


def script_of(
    name: str, witness: WitnessFile, entry: Entry | None, target: Target, timeout: float, traced: bool = False
) -> Script:
    """The script of a ledger entry, or of a new failure (``entry`` None), for a target; ``traced`` asks for lines of timm.

    What was written by hand for an entry is preferred, where it shows the bug on that target. Raises :class:`UserError`
    where the failure does not show there, or cannot be written out.
    """
    mended = _mended(entry, target) if entry else None
    by_hand = _by_hand(entry, target) if entry else ""
    ran = _seen(by_hand, "", target, mended, timeout)
    if ran is not None and not traced:
        return Script(by_hand, target, ran, mended)
    known = [entry.explanation, f"Known in timm {entry.releases}."] if entry else []
    (answer,) = worker.ask(target, [Stored(name, witness, entry.title if entry else "", known)], timeout)
    text = by_hand if ran is not None else answer.text
    ran = ran or _seen(answer.text, answer.says, target, mended, timeout)
    if answer.mistake and ran is None:
        raise UserError(f"{name}: no script, by a mistake of this suite: {answer.mistake}")
    if ran is None:
        raise UserError(f"{name} does not show on {target.spec} with a checkpoint of plain numbers{_where_else(entry)}")
    return Script(text, target, ran, mended, answer.ended, tuple(answer.resampled))


def _seen(text: str, says: str, target: Target, mended: Target | None, timeout: float) -> Ran | None:
    """What a script did on the target, if it shows there what it has to, and does not on a mended release."""
    if not text:
        return None
    ran = execute(text, target, timeout)
    return ran if _shows(ran, says) and (mended is None or execute(text, mended, timeout).code == 0) else None


def _where_else(entry: Entry | None) -> str:
    return f"; the ledger knows it in timm {entry.releases}" if entry else "; replay its witness to see it"


def _shows(ran: Ran, says: str) -> bool:
    return ran.code == 1 and bool(ran.got) and re.search(says, ran.output) is not None


def _by_hand(entry: Entry, target: Target) -> str:
    """The script that was written for an entry, or for the one whose fault it is, pinned to the target's timm."""
    paths = [REPRODUCERS / f"{name}.py" for name in (entry.id, entry.view_of) if name]
    path = next((p for p in paths if p.is_file()), None)
    if path is None or target.kind != "timm":
        return ""
    pins = f'# dependencies = ["torch=={version("torch").split("+")[0]}", "timm=={target.value}"]'
    return re.sub(r"^# dependencies = .*$", pins, path.read_text(encoding="utf-8"), count=1, flags=re.M)


def _mended(entry: Entry, target: Target) -> Target | None:
    """The first release at hand after the target's that the ledger says is mended."""
    if entry.kind == "dependency" or target.kind != "timm":
        return None
    later = [v for v in map(Version, releases.cached()) if v > Version(target.value) and not entry.applies_to(v)]
    return parse_target(f"timm=={later[0]}") if later else None


def write_scripts(
    found: Results, out: Path, jobs: int, timeout: float, say: Callable[[str], None]
) -> dict[tuple[str, str], Path]:
    """Write a script for each cause of new failures to ``out``; returns them by target and fingerprint.

    Failures of one cause share a script. One that no plain checkpoint shows has none: its witness is what there is. What
    keeps a target from being asked costs its scripts and nothing else; ``say`` is told.
    """
    written: dict[tuple[str, str], Path] = {}
    for spec in dict.fromkeys(v.target for v in found.verdicts):
        folder = out / SCRIPTS / file_name(spec)
        for outdated in folder.glob("*.py"):
            outdated.unlink()
        failures = [Stored(f.fingerprint, witness_of(v.invariant, f)) for v in found.of(spec) for f in v.failures]
        if not failures:
            continue
        target = parse_target(spec)
        try:
            answers = worker.ask(target, failures, max(timeout, 2.0 * len(failures)))
        except UserError as error:
            say(f"no scripts for what fails: {error}")
            continue
        for answer in answers:
            if answer.mistake:
                say(f"no script for {answer.names[0]}, by a mistake of this suite: {answer.mistake}")
        with ThreadPoolExecutor(jobs) as pool:
            shown = list(pool.map(partial(_verified, target=target, timeout=timeout), answers))
        for answer in filter(None, shown):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{file_name(answer.names[0])}.py"
            path.write_text(answer.text, encoding="utf-8")
            written |= {(spec, name): path for name in answer.names}
    return written


def _verified(answer: Answer, target: Target, timeout: float) -> Answer | None:
    return answer if _seen(answer.text, answer.says, target, None, timeout) else None
