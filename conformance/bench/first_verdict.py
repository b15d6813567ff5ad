"""Measures the time from the start of the process to the first verdict, and to the verdict on timm issue #2120.

The command is ``timm-conformance run`` without arguments. It is ended once both verdicts were printed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from tempfile import TemporaryDirectory

from ..errors import UserError
from ..targets.subprocess_call import environment, exit_reason
from .part import Cell, Part
from .timing import Timed, in_turn

_SAID = {"first verdict of any kind": "witness ", "#2120: timm 0.9.16 fails it": "clip-early-return FAILS"}


def measure(rounds: int) -> list[Part]:
    """The part about both times."""
    taken = in_turn({"run": _moments}, rounds)["run"]
    after = {what: Timed.of([moments[what] for moments in taken]) for what in _SAID}
    rows: list[dict[str, Cell]] = [{"what": what, "after": timed} for what, timed in after.items()]
    findings = [f"{what}: {timed.median:.1f} s after the start of the process" for what, timed in after.items()]
    return [Part("first-verdict", "Seconds to the first verdicts", rows, findings)]


def _moments() -> dict[str, float]:
    """Seconds after which each verdict was printed, in one run."""
    found: dict[str, float] = {}
    with TemporaryDirectory(prefix="timm-conformance-") as scratch:
        command = [sys.executable, "-m", "timm_conformance.cli.main", "run", "--out", scratch]
        started, lines = time.perf_counter(), []
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None  # a pipe
            for line in process.stdout:
                lines.append(line)
                now = time.perf_counter() - started
                found |= {what: now for what, text in _SAID.items() if text in line and what not in found}
                if len(found) == len(_SAID):
                    process.terminate()
                    return found
        raise UserError(
            f"no verdict on #2120: {exit_reason(''.join(lines), process.returncode, 'timm-conformance run')}"
        )
