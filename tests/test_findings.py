"""docs/findings.md is a claim about timm: every script in it is run, on the release it accuses and on one that is fixed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from timm_conformance.ledger.entries import DEFAULT_LEDGER, REPRODUCERS, load_ledger
from timm_conformance.probes.registry import ask, faults
from timm_conformance.targets.releases import ensure
from timm_conformance.targets.target import MODEL_RELEASE

BOOK = load_ledger(DEFAULT_LEDGER)
LIVE = [e.id for e in BOOK.entries if e.names(Version(MODEL_RELEASE)) and not e.view_of]
SHIM = "import sys; from timm_conformance.targets.torchvision_shim import install; install(); sys.argv = sys.argv[1:]; "

# Imports what every script imports once, and runs each script of standard input in a child of its own.
SERVE = (
    SHIM
    + """
import contextlib, io, json, os, runpy, traceback
import timm, torch

for script in map(str.strip, sys.stdin):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as ended:
                code = ended.code
            except BaseException:
                traceback.print_exc()
                code = -1
        os.write(write, json.dumps([code, out.getvalue(), err.getvalue()]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    print(answer.decode() or json.dumps([None, "", "the script's process died"]), flush=True)
"""
)


class Scripts:
    """Runs scripts on a side-loaded release, as a maintainer would on an installed one."""

    def __init__(self, release: str) -> None:
        search = f"{ensure(release)}:{Path(__file__).resolve().parent.parent}"
        environment = {"PYTHONPATH": search, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", SERVE, "serve"], env=environment, **pipes)

    def run(self, script: Path) -> subprocess.CompletedProcess:
        """The exit code and the output of a script."""
        self.process.stdin.write(f"{script}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process of the scripts died"
        code, out, err = json.loads(answer)
        return subprocess.CompletedProcess([str(script)], code, out, err)


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    """The scripts of the newest release."""
    found = Scripts(MODEL_RELEASE)
    yield found
    found.process.stdin.close()
    found.process.wait(timeout=60)


def test_every_live_entry_has_a_script_and_every_script_an_entry() -> None:
    """Nothing is accused without proof, and no proof is left of what is gone."""
    scripts = {p.stem for p in REPRODUCERS.glob("*.py")}
    assert scripts >= {name for name in LIVE if not BOOK.entry(name).probe}
    assert scripts <= {e.id for e in BOOK.entries if not e.probe}
    assert all(BOOK.entry(name).script for name in LIVE)


@pytest.mark.parametrize("name", [*LIVE, "beside-the-loader/mobileclip-stem-padding"])
def test_a_script_shows_its_fault_in_the_newest_release(scripts: Scripts, name: str) -> None:
    """Exit 1, with what was expected and what came instead."""
    entry = BOOK.entry(name)
    if entry is not None and entry.regime == ["off-cpu"] and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; tests/test_pretend_cuda.py runs it on the pretend one")
    if entry is not None and entry.probe and entry.probe not in faults(ask()):
        pytest.skip("the installed torch does not have the fault")
    done = scripts.run(entry.script if entry else REPRODUCERS / f"{name}.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "expected" in done.stdout
    assert "got" in done.stdout
    assert "Traceback" not in done.stderr
