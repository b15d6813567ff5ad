"""The suite as a function: ``run_conformance`` judges a loader, or targets, without pytest."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.other_repository import BLOCKS, ROOT
from tests.preloaded import PYTHON
from timm_conformance import reference, run_conformance
from timm_conformance.errors import UserError
from timm_conformance.results.records import Footer
from timm_conformance.targets.target import MODEL_RELEASE


def returns_early(checkpoint, model):
    """Issue #2120, for bare and wrapped CLIP checkpoints."""
    kernel = reference.unwrap(checkpoint)["visual.conv1.weight"]
    return {**reference.load_state_dict(checkpoint, model), "patch_embed.proj.weight": kernel}


ASKED = {"families": ["openai_clip"], "invariants": ["strict-load", "finite"], "profile": "smoke"}
# In the tests' own process, which can have one timm only, and other tests name this one.
HERE = {**ASKED, "timm": MODEL_RELEASE}


def test_the_script_of_the_page(project):
    """The page's last block judges the project's own loader."""
    project.write("judge.py", BLOCKS[2])
    done = project.run("judge.py")
    assert done.returncode == 0, done.stderr


def test_known_failures_without_pytest():
    """The same verdicts as structured results, settled by the same list; the exit code is that of a run."""
    known = {"openai_clip:strict-load": "see #12"}
    results = run_conformance(returns_early, known_failures=known, **HERE)
    assert {v.invariant: (v.verdict, v.reason) for v in results.verdicts} == {
        "strict-load": ("known", "see #12"),
        "finite": ("pass", ""),
    }
    assert results.footers[-1].exit_code == 0
    gone = run_conformance(reference.load_state_dict, known_failures=known, **HERE)
    assert {v.invariant: v.verdict for v in gone.verdicts} == {"strict-load": "fixed", "finite": "pass"}
    assert gone.footers[-1].exit_code == 1


def test_targets_without_pytest():
    """A target's results are those of a run: its own process, the ledger, the witnesses."""
    seen = []
    results = run_conformance("timm==0.9.16", watch=seen.append, **{**ASKED, "invariants": "strict-load"})
    assert [v.verdict for v in results.verdicts] == ["known"]
    assert "clip-early-return" in {w.id for w in results.witnesses}
    assert isinstance(results.records[-1], Footer)
    assert all(verdict in seen for verdict in results.verdicts)


@pytest.mark.parametrize(
    ("loader", "asked", "says"),
    [
        (reference.load_state_dict, {"families": ["clip"]}, "unknown family 'clip'"),
        (reference.load_state_dict, {"invariants": ["strict"]}, "unknown invariant 'strict'"),
        (reference.load_state_dict, {"profile": "huge"}, "unknown profile 'huge'"),
        (reference.load_state_dict, {"ledger": "none"}, "ledger and jobs go with targets"),
        (reference.load_state_dict, {"timm": "new"}, "'new' is no version"),
        ("timm==1.0.31", {"timm": "installed"}, "known_failures and timm go with a function"),
        ("timm==1.0.31", {"profile": "huge"}, "unknown profile 'huge'"),
        ("timm=1.0.31", {}, "unknown target 'timm=1.0.31'"),
        ([], {}, "no target is given"),
    ],
)
def test_mistakes_without_pytest(loader, asked, says):
    """UserError, one line, at once; never an exit."""
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        run_conformance(loader, **asked)
    assert "\n" not in str(caught.value)


def test_the_process_gets_its_settings_back():
    """Judging in somebody's process leaves its threads and random numbers as they were."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        run_conformance(reference.load_state_dict, **HERE)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


def test_importing_the_package_imports_no_torch():
    """`import timm_conformance` is instant."""
    code = "import sys, conformance; assert 'torch' not in sys.modules and 'pytest' not in sys.modules"
    assert subprocess.run([PYTHON, "-c", code], cwd=ROOT).returncode == 0
    with pytest.raises(ImportError, match="cannot import name 'vit_confirmance'"):
        from timm_conformance import vit_confirmance  # noqa: F401
