"""Verifies scripts before they are given out: each runs in a fresh interpreter, on the target and on a fixed release."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from packaging.version import Version

from ..errors import UserError
from ..ledger.entries import REPRODUCERS, Entry
from ..ledger.witnesses import WitnessFile, witness_of
from ..results.records import Cause, Results
from ..targets import releases
from ..targets.target import Target, parse_target
from . import worker
from .execution import ScriptRun, execute
from .worker import Answer, Stored


@dataclass(frozen=True)
class Script:
    """A verified script: it exits with 1 on the target, and with 0 on a release with a fix (``fixed``), if there is one.

    ``ended`` and ``resampled`` are lines of timm: :class:`timm_conformance.repro.trace.Trace`.
    """

    text: str
    target: Target
    ran: ScriptRun
    fixed: Target | None = None
    ended: str = ""
    resampled: tuple[str, ...] = ()


def verified_script(
    name: str, witness: WitnessFile, entry: Entry | None, target: Target, timeout: float, traced: bool = False
) -> Script:
    """The script of a ledger entry, or of a new failure (``entry`` None), for a target.

    A script written by hand for the entry is preferred, if it shows the bug on that target. ``traced`` asks for lines of timm.
    ``timeout`` is in seconds. Raises :class:`UserError` if the failure does not show there or cannot be written as a script.
    """
    fixed = _fixed_release(entry, target) if entry else None
    by_hand = _by_hand(entry, target) if entry else ""
    ran = _run_if_failing(by_hand, "", target, fixed, timeout)
    if ran is not None and not traced:
        return Script(by_hand, target, ran, fixed)
    known = [entry.explanation, f"Known in timm {entry.releases}."] if entry else []
    (answer,) = worker.request_scripts(target, [Stored(name, witness, entry.title if entry else "", known)], timeout)
    text = by_hand if ran is not None else answer.text
    ran = ran or _run_if_failing(answer.text, answer.pattern, target, fixed, timeout)
    if answer.mistake and ran is None:
        raise UserError(f"{name}: no script, by a mistake of this suite: {answer.mistake}")
    if ran is None:
        raise UserError(f"{name} does not show on {target.spec} with a checkpoint of plain numbers{_where_else(entry)}")
    return Script(text, target, ran, fixed, answer.ended, tuple(answer.resampled))


def _run_if_failing(text: str, pattern: str, target: Target, fixed: Target | None, timeout: float) -> ScriptRun | None:
    """The run of a script on the target, if it fails there as expected and succeeds on the fixed release; else None."""
    if not text:
        return None
    ran = execute(text, target, timeout)
    return (
        ran if _fails_as_expected(ran, pattern) and (fixed is None or execute(text, fixed, timeout).code == 0) else None
    )


def _where_else(entry: Entry | None) -> str:
    return f"; the ledger knows it in timm {entry.releases}" if entry else "; replay its witness to see it"


def _fails_as_expected(ran: ScriptRun, pattern: str) -> bool:
    return ran.code == 1 and bool(ran.got) and re.search(pattern, ran.output) is not None


def _by_hand(entry: Entry, target: Target) -> str:
    """The script written by hand for an entry, or for the entry that it is a view of, pinned to the target's timm."""
    paths = [REPRODUCERS / f"{name}.py" for name in (entry.id, entry.view_of) if name]
    path = next((p for p in paths if p.is_file()), None)
    if path is None or target.kind != "timm":
        return ""
    pins = f'# dependencies = ["torch=={version("torch").split("+")[0]}", "timm=={target.value}"]'
    return re.sub(r"^# dependencies = .*$", pins, path.read_text(encoding="utf-8"), count=1, flags=re.M)


def _fixed_release(entry: Entry, target: Target) -> Target | None:
    """The first cached release after the target's that does not have the entry's bug, according to the ledger."""
    if target.kind != "timm":
        return None
    later = [v for v in map(Version, releases.cached()) if v > Version(target.value) and not entry.applies_to(v)]
    return parse_target(f"timm=={later[0]}") if later else None


def find_causes(found: Results, jobs: int, timeout: float, say: Callable[[str], None]) -> list[Cause]:
    """Group the new failures by cause, each with a script that was seen to reproduce it.

    A failure that no checkpoint of plain numbers shows has only its witness. If a target cannot write scripts, ``say`` gets the
    reason, and its failures are not grouped.
    """
    causes: list[Cause] = []
    for spec in dict.fromkeys(v.target for v in found.verdicts):
        failures = [Stored(f.fingerprint, witness_of(v.invariant, f)) for v in found.of(spec) for f in v.failures]
        if not failures:
            continue
        say(f"{spec}: looking for the causes of {len(failures)} failures")
        target = parse_target(spec)
        try:
            answers = worker.request_scripts(target, failures, max(timeout, 2.0 * len(failures)))
        except UserError as error:
            say(f"no scripts for what fails: {error}")
            continue
        for answer in answers:
            if answer.mistake:
                say(f"no script for {answer.names[0]}, by a mistake of this suite: {answer.mistake}")
        with ThreadPoolExecutor(jobs) as pool:
            shown = list(pool.map(partial(_verified, target=target, timeout=timeout), answers))
        causes += [Cause(spec, a.names, a.text if ok else "") for a, ok in zip(answers, shown)]
    return causes


def _verified(answer: Answer, target: Target, timeout: float) -> bool:
    return _run_if_failing(answer.text, answer.pattern, target, None, timeout) is not None
