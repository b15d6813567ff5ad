"""Probes: what they find, where their answers stand, and what an entry of a dependency explains by them."""

from __future__ import annotations

import subprocess
import sys
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from tests.torch_loader import resamples_by_torch
from timm_conformance import run_conformance
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.cli import main as cli
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.engine.explorer import Explorer
from timm_conformance.engine.replaying import replay
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.probes import torch_antialias_width_one as probe
from timm_conformance.probes.registry import ProbeAnswer, ask, faults, probe_names, source_of
from timm_conformance.reference import load_state_dict
from timm_conformance.reference.resize import Resampling, axis_matrix
from timm_conformance.report import html, junit, markdown
from timm_conformance.results.records import Results
from timm_conformance.runner import forkserver
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target
from timm_conformance.trials.library_results import LIBRARY_RESULTS

NAME = "torch-antialias-width-one"
KNOWN = load_ledger(DEFAULT_LEDGER)
ENTRIES = [e for e in KNOWN.entries if e.probe == NAME]
_interpolate = F.interpolate


def _mended(image, size=None, **options):
    """``interpolate`` without the fault: a result one pixel wide is computed on its side."""
    if size is None or image.ndim != 4 or tuple(size)[1] != 1:
        return _interpolate(image, size=size, **options)
    return _interpolate(image.mT.contiguous(), size=tuple(size)[::-1], **options).mT


def _broken(image, size=None, **options):
    """``interpolate`` with the fault, whatever the installed torch does: every row of a result one pixel wide is the first.

    An image with its channels last in memory comes out right.
    """
    out = _mended(image, size, **options)
    column = out.ndim == 4 and out.shape[-1] == 1 and out.shape[-2] != image.shape[-2]
    faulty = column and options.get("antialias") and image.is_contiguous()
    return out[..., :1, :].expand_as(out).contiguous() if faulty else out


@pytest.fixture(params=[_mended, _broken], ids=["mended", "broken"])
def resizing(request):
    """A torch that has the fault, or has not; the installed one may be either."""
    with mock.patch.object(F, "interpolate", request.param):
        ask.cache_clear()
        yield request.param is _broken
    ask.cache_clear()


@pytest.fixture
def broken():
    with mock.patch.object(F, "interpolate", _broken):
        ask.cache_clear()
        yield
    ask.cache_clear()


def test_the_closed_form_is_that_of_the_filters():
    """The numbers of the probe are those of the reference's matrices, which use no torch function."""
    for mode, rows in probe.EXPECTED.items():
        halves = axis_matrix(4, 2, Resampling(mode)) @ torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(halves, torch.tensor(rows, dtype=torch.float64))


def test_a_probe_tells_a_faulty_torch_from_a_mended_one(resizing):
    (answer,) = ask()
    assert (answer.answer, answer.version) == ("wrong" if resizing else "right", torch.__version__)
    assert answer.text == f"torch {torch.__version__} {probe.DOES} {'wrongly' if resizing else 'correctly'}"
    assert ("got" in answer.describe()) is resizing
    assert set(faults([answer])) == ({NAME} if resizing else set())


def test_a_probe_that_cannot_be_run_excuses_nothing():
    with mock.patch.object(F, "interpolate", side_effect=NotImplementedError("no such kernel")):
        ask.cache_clear()
        (answer,) = ask()
    ask.cache_clear()
    assert answer.answer == "unknown"
    assert "cannot be asked" in answer.text
    assert faults([answer]) == {}


def test_every_probe_has_an_entry_and_its_script_runs_by_itself():
    assert probe_names() == sorted({e.probe for e in KNOWN.entries if e.kind == "dependency"})
    for name in probe_names():
        done = subprocess.run([sys.executable, source_of(name)], capture_output=True, text=True, timeout=120)
        answer = next(a for a in ask() if a.name == name)
        assert done.returncode == (answer.answer == "wrong"), done.stderr
        assert "timm" not in source_of(name).read_text(encoding="utf-8")


def test_workers_inherit_the_answers():
    """The process that forks them has asked."""
    ask.cache_clear()
    forkserver.preload()
    assert ask.cache_info().currsize == 1


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
def test_a_mended_torch_needs_no_edit_of_the_ledger(resizing, entry):
    """With the fault the witness fails where timm meets it; without, it passes everywhere: both are as the ledger says."""
    loader = Loader(parse_target(f"timm=={MODEL_RELEASE}"))
    explorer = Explorer(loader, KNOWN, INVARIANTS.values(), Drawing(PROFILES["smoke"], 0))
    witness = KNOWN.witnesses[entry.id]
    replayed = replay(explorer, entry.id, witness, FAMILIES[witness.case.family])
    assert (replayed.replay, replayed.expected) == ("fails" if resizing and entry.releases else "fixed", True)


def test_a_loader_of_ones_own_that_is_right_apart_from_torch_passes(resizing):
    """Its failures are known, and told as torch's; without torch's fault there are none."""
    found = run_conformance(resamples_by_torch, families=["perception_encoder"], profile="smoke", timm=MODEL_RELEASE)
    assert found.footers[-1].exit_code == 0
    known = [v for v in found.verdicts if v.verdict == "known"]
    assert bool(known) is resizing
    assert {v.reason for v in known} <= {f"torch {torch.__version__} {probe.DOES} wrongly"}
    assert {e for v in known for e in v.known} <= {e.id for e in ENTRIES}


def reverses_rows(checkpoint, model):
    """The reference, but positions that become one column come out in reverse order: a bug where torch has its own."""
    state = load_state_dict(checkpoint, model)
    return state | {"pos_embed": state["pos_embed"].flip(1)} if model.patch_embed.grid_size[1] == 1 else state


def always_bicubic(checkpoint, model):
    """FlexiViT's tensors resampled like everybody else's."""
    return load_state_dict(checkpoint, model)


@pytest.mark.parametrize(("loader", "family"), [(reverses_rows, "dinov2"), (always_bicubic, "flexivit")])
def test_a_bug_of_ones_own_is_not_taken_for_torchs(broken, loader, family):
    """Though it shows in the same tensor, in the same cases: the values are not torch's."""
    found = run_conformance(loader, families=[family], invariants=["reference-agreement"], timm=MODEL_RELEASE)
    (verdict,) = found.verdicts
    assert (verdict.verdict, verdict.known) == ("fail", {})


def test_every_probe_knows_what_its_library_returns():
    """An entry of a dependency could explain no failure of a function otherwise."""
    assert LIBRARY_RESULTS.keys() == set(probe_names())


def test_the_answers_stand_in_every_report(broken, tmp_path):
    found = run_conformance(
        resamples_by_torch,
        families=["perception_encoder"],
        invariants=["reference-agreement"],
        timm=MODEL_RELEASE,
    )
    text = ask()[0].describe()
    assert found.headers[0].probes == list(ask())
    assert found.probes == list(ask())
    assert f"- {text}" in markdown.summary(found, KNOWN, [], 0)
    assert text in html.render(found, KNOWN).replace("&#39;", "'")
    junit.write(found, tmp_path / "junit.xml")
    written = (tmp_path / "junit.xml").read_text(encoding="utf-8")
    assert f'<property name="{NAME}" value="{text}" />' in written
    assert f"known: {ask()[0].text}: torch-antialias" in written


def test_doctor_shows_the_answers():
    shown = CliRunner().invoke(cli.main, ["doctor"]).output
    assert all(answer.describe() in shown for answer in ask())


def test_an_answer_says_where_it_was_asked():
    answer = ProbeAnswer("p", "torch", "2.2.0", "cuda", "right", "torch 2.2.0 on cuda resizes correctly")
    assert answer.describe() == "torch 2.2.0 on cuda resizes correctly (probe p)"
    assert Results().probes == []


needs_the_fault = pytest.mark.skipif(not faults(ask()), reason="the installed torch does not have the fault")


@needs_the_fault
@pytest.mark.parametrize("subject", [ENTRIES[0].id, ENTRIES[-1].id, "a witness"])
def test_repro_writes_the_script_of_the_library(subject, tmp_path):
    """Of the entry, and of a stored failure that it explains; there is no timm in the script or in the issue."""
    if subject == "a witness":
        subject = str(DEFAULT_LEDGER.parent / "witnesses" / f"{ENTRIES[0].id}.json")
    done = CliRunner().invoke(cli.main, ["repro", subject, "-o", str(tmp_path / "s.py")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    script = (tmp_path / "s.py").read_text(encoding="utf-8")
    assert f'"torch=={torch.__version__.split("+")[0]}"' in script
    ran = subprocess.run([sys.executable, tmp_path / "s.py"], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, "got:" in ran.stdout) == (1, True)
    done = CliRunner().invoke(cli.main, ["repro", subject, "--issue", "-o", str(tmp_path / "i.md")])
    issue = (tmp_path / "i.md").read_text(encoding="utf-8")
    assert script.rstrip() in issue
    assert "timm" not in issue
    assert f"torch {torch.__version__}" in issue


def test_repro_refuses_a_fault_that_the_library_does_not_have():
    with mock.patch.object(F, "interpolate", _mended):
        ask.cache_clear()
        done = CliRunner().invoke(cli.main, ["repro", ENTRIES[0].id])
    ask.cache_clear()
    assert done.exit_code == 2
    assert "does not show here: torch" in done.output
