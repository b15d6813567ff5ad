"""docs/findings.md is a claim about timm: every script in it is run, on the release it accuses and on one that is fixed."""

from __future__ import annotations

import subprocess
import sys
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
RUN = SHIM + "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"


def run(script: Path, release: str) -> subprocess.CompletedProcess:
    """Run a script on a side-loaded release, as a maintainer would on an installed one."""
    search = f"{ensure(release)}:{Path(__file__).resolve().parent.parent}"
    environment = {"PYTHONPATH": search, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(script)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_every_live_entry_has_a_script_and_every_script_an_entry() -> None:
    """Nothing is accused without proof, and no proof is left of what is gone."""
    scripts = {p.stem for p in REPRODUCERS.glob("*.py")}
    assert scripts >= {name for name in LIVE if not BOOK.entry(name).probe}
    assert scripts <= {e.id for e in BOOK.entries if not e.probe}
    assert all(BOOK.entry(name).script for name in LIVE)


@pytest.mark.parametrize("name", [*LIVE, "beside-the-loader/mobileclip-stem-padding"])
def test_a_script_shows_its_fault_in_the_newest_release(name: str) -> None:
    """Exit 1, with what was expected and what came instead."""
    entry = BOOK.entry(name)
    if entry is not None and entry.regime == ["off-cpu"] and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; tests/test_pretend_cuda.py runs it on the pretend one")
    if entry is not None and entry.probe and entry.probe not in faults(ask()):
        pytest.skip("the installed torch does not have the fault")
    done = run(entry.script if entry else REPRODUCERS / f"{name}.py", MODEL_RELEASE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "expected" in done.stdout
    assert "got" in done.stdout
    assert "Traceback" not in done.stderr
