"""A script in a fresh interpreter, with the timm of a target, as whoever it is handed to will run it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..targets import subprocess_call
from ..targets.target import Target, folder_of

# Where torchvision lacks its compiled half, timm cannot be imported without the shim.
_RUN = (
    "import runpy, sys; from timm_conformance.targets import torchvision_shim; torchvision_shim.install(); sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass(frozen=True)
class Ran:
    """What a script did: its exit code, what it printed, and the line that says what it got."""

    code: int
    output: str

    @property
    def got(self) -> str:
        """What came instead of what was expected."""
        return self._told("got:")

    @property
    def expected(self) -> str:
        """What was expected."""
        return self._told("expected:")

    @property
    def timm(self) -> str:
        """The timm that it says it ran with."""
        return self._told("timm ")

    def _told(self, label: str) -> str:
        lines = [line for line in self.output.splitlines() if line.startswith(label)]
        return lines[-1].removeprefix(label).strip() if lines else ""


def execute(text: str, target: Target, timeout: float) -> Ran:
    """Run a script with a target's timm. One that hangs has the exit code -1, and says so."""
    folder = folder_of(target)
    search = [str(folder)] if folder else []
    environment = subprocess_call.environment(*search, *([] if target.is_timm else [os.getcwd()])) | {
        "PYTHONWARNINGS": "ignore"
    }
    with TemporaryDirectory(prefix="timm-conformance-") as scratch:
        path = Path(scratch) / "script.py"
        path.write_text(text, encoding="utf-8")
        command = [sys.executable, "-c", _RUN, str(path)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return Ran(-1, f"got: no end within {timeout:.0f} s")
    return Ran(done.returncode, done.stdout if done.stdout else done.stderr)
