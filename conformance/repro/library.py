"""The script and the issue of a fault that is a library's, not timm's: its probe, with no timm in it."""

from __future__ import annotations

import ast
import platform
import re
import subprocess
import sys

from ..cases.regimes import regimes
from ..errors import UserError, one_line
from ..ledger.entries import Entry, Ledger, first_covering
from ..ledger.witnesses import WitnessFile
from ..probes.registry import ProbeAnswer, ask, faults, source_of
from .execution import ScriptRun
from .issue import sections


def owning_entry(witness: WitnessFile, known_bugs: Ledger) -> Entry | None:
    """The fault of a library that explains a stored failure here; None where the installed libraries have no such fault."""
    found = known_bugs.active(None, faults(ask()))
    problem = (witness.kind, witness.tensor)
    return first_covering(found, witness.case.family, witness.invariant, problem, regimes(witness.case, 0))


def library_script(entry: Entry, timeout: float) -> tuple[str, ScriptRun]:
    """The script of a library's fault and its run in a fresh interpreter, in which it exited with 1.

    Raises :class:`UserError` where the installed library does not have the fault.
    """
    answer = _answer(entry)
    if answer.answer != "wrong":
        raise UserError(f"{entry.id} does not show here: {answer.text}")
    head = ["# /// script", '# requires-python = ">=3.10"', f'# dependencies = ["{_pin(answer)}", "numpy"]', "# ///"]
    text = "\n".join([*head, source_of(entry.probe).read_text(encoding="utf-8")])
    try:
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise UserError(f"{entry.id}: its script took longer than {timeout:.0f} s; --timeout gives it more") from None
    ran = ScriptRun(done.returncode, done.stdout or done.stderr)
    if ran.code != 1 or not ran.got:
        raise UserError(f"{entry.id}: its script does not show the fault: {one_line(ran.output)}")
    return text, ran


def library_issue(entry: Entry, script: str, ran: ScriptRun) -> str:
    """Markdown text for the library's own tracker."""
    answer = _answer(entry)
    title, _, explanation = (ast.get_docstring(ast.parse(script)) or "").partition("\n\n")
    versions = f"## Versions\n\nSeen with {answer.library} {answer.version}, Python {platform.python_version()}."
    return sections(title.rstrip("."), "", ran, explanation, versions, script)


def _answer(entry: Entry) -> ProbeAnswer:
    return next(a for a in ask() if a.name == entry.probe)


def _pin(answer: ProbeAnswer) -> str:
    return f"{answer.library}=={re.sub(r'[+].*', '', answer.version)}"
