"""Runs a script in a fresh interpreter with the timm of a target, as the script's reader will run it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..targets import subprocess_call
from ..targets.target import Target, folder_of

# If torchvision's compiled part cannot be loaded, timm cannot be imported without the shim.
_RUN = (
    "import runpy, sys; from timm_conformance.targets import torchvision_shim; torchvision_shim.install(); sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass(frozen=True)
class ScriptRun:
    """A finished run of a script: its exit code and its output."""

    code: int
    output: str

    @property
    def got(self) -> str:
        """The actual result, from the script's output."""
        return self._labelled("got:")

    @property
    def expected(self) -> str:
        """The expected result, from the script's output."""
        return self._labelled("expected:")

    @property
    def timm(self) -> str:
        """The version of timm, from the script's output."""
        return self._labelled("timm ")

    def _labelled(self, label: str) -> str:
        lines = [line for line in self.output.splitlines() if line.startswith(label)]
        return lines[-1].removeprefix(label).strip() if lines else ""


def execute(text: str, target: Target, timeout: float) -> ScriptRun:
    """Run a script with a target's timm. A script that takes longer than ``timeout`` seconds has the exit code -1."""
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
            return ScriptRun(-1, f"got: no end within {timeout:.0f} s")
    return ScriptRun(done.returncode, done.stdout if done.stdout else done.stderr)
