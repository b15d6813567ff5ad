"""The runner: one process a target, none of which can take the others down."""

from __future__ import annotations

import os

import pytest

from timm_conformance.cases.selection import Selection
from timm_conformance.errors import UserError
from timm_conformance.results.records import Header, Verdict
from timm_conformance.runner import forkserver
from timm_conformance.runner.plan import Plan
from timm_conformance.runner.run import run
from timm_conformance.runner.workers import WorkerPool

SELECTION = Selection(("timm_native",), ("strict-load", "finite"), profile="smoke", ledger="none")


@pytest.fixture(scope="module")
def collected():
    """One run over a good target and every kind of bad one."""
    names = ("crashes", "exits", "hangs", "perfect", "no_such_function")
    targets = (*(f"loader:tests.bad_loaders:{n}" for n in names), "loader:tests.no_such_module:load")
    return run(Plan(targets, SELECTION, timeout=25))


def verdicts(collected, name):
    """Verdict names and reasons of one target."""
    found = collected.of(f"loader:tests.{name}")
    return {v.verdict for v in found}, {v.reason for v in found}


def test_every_target_that_starts_has_every_verdict(collected):
    """It ends with one verdict a family and invariant, whatever became of its process."""
    cells = {}
    for verdict in collected.verdicts:
        cells.setdefault(verdict.target, []).append((verdict.family, verdict.invariant))
    assert len(cells) == 4
    assert all(sorted(c) == [("timm_native", "finite"), ("timm_native", "strict-load")] for c in cells.values())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad_loaders:no_such_function", "no attribute 'no_such_function'"),
        ("no_such_module:load", "No module named 'tests.no_such_module'"),
    ],
)
def test_a_target_that_cannot_start_is_one_error_with_its_reason(collected, name, reason):
    """And no verdict, since nothing was judged."""
    assert len(collected.errors) == 2
    assert reason in collected.errors[f"loader:tests.{name}"]
    assert not collected.of(f"loader:tests.{name}")


def test_the_others_still_report(collected):
    """A well-behaved target passes beside the broken ones."""
    assert verdicts(collected, "bad_loaders:perfect") == ({"pass"}, {""})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad_loaders:crashes", "killed by signal 9"),
        ("bad_loaders:exits", "exited with code 7"),
        ("bad_loaders:hangs", "hung: no sign of life for 25 s"),
    ],
)
def test_a_broken_target_is_an_error_with_the_reason(collected, name, reason):
    """A crash, an exit and a hang are error verdicts that say so."""
    names, reasons = verdicts(collected, name)
    assert names == {"error"}
    assert all(reason in r for r in reasons), reasons


def test_a_loader_that_returns_nonsense_fails_and_is_no_error():
    """What a loader does wrong inside its process is a failure of the loader."""
    collected = run(Plan(("loader:tests.bad_loaders:returns_nonsense",), SELECTION))
    strict = next(v for v in collected.verdicts if v.invariant == "strict-load")
    assert strict.verdict == "fail"
    assert strict.failures[0].kind == "raises-TypeError"


def test_an_interrupt_loses_nothing_computed():
    """Ctrl-C ends the workers; what had arrived is kept and the rest says it was interrupted."""

    pressed = []

    def watch(record):
        if isinstance(record, Verdict) and record.verdict == "pass" and not pressed:
            pressed.append(record)
            raise KeyboardInterrupt

    collected = run(Plan(("reference", "loader:tests.bad_loaders:perfect"), SELECTION, jobs=1), watch)
    found = {(v.target, v.invariant): v.verdict for v in collected.verdicts}
    assert found["reference", "strict-load"] == "pass"
    assert found["reference", "finite"] == "pass"
    assert {v.reason for v in collected.of("loader:tests.bad_loaders:perfect")} == {"interrupted"}
    assert [h.target for h in collected.headers] == ["reference"]


def test_a_single_target_that_cannot_run_is_a_user_error(tmp_path):
    """With nothing else to report, the mistake is told as one line."""
    with pytest.raises(UserError, match=r"no timm/__init__\.py under"):
        run(Plan((f"path:{tmp_path}",), SELECTION))


def test_headers_name_versions_and_shims():
    """Whatever ran says on what."""
    collected = run(Plan(("reference",), SELECTION))
    (header,) = collected.headers
    assert isinstance(header, Header)
    assert header.timm == "1.0.31"
    assert set(header.invariants) == {"strict-load", "finite"}
    assert header.shims in ([], ["torchvision-operators"])


@pytest.mark.skipif(not forkserver.AVAILABLE, reason="there is no fork here")
def test_an_environment_in_which_no_worker_can_start_is_a_user_error(tmp_path, monkeypatch):
    """A torch that cannot be imported, say: one line with its reason."""
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match="no worker can be started: ImportError: libtorch is broken"):
        run(Plan(("reference",), Selection(("deit",), ("finite",), profile="smoke")))


def test_the_first_worker_of_a_target_replays_what_is_known_of_all_its_families(monkeypatch, tmp_path):
    """Whichever share a family is in: a user hears of #2120 at once, and of each witness once."""
    monkeypatch.setattr(forkserver, "AVAILABLE", False)
    plan = Plan(("timm==0.9.16", "reference"), Selection(("dinov2", "openai_clip")), shares={"reference": ("dinov2",)})
    pool = WorkerPool(plan, tmp_path, tmp_path)
    asked = [pool._work(spec, ("dinov2",), tmp_path).replay for spec in ("timm==0.9.16", "reference", "timm==0.9.16")]
    assert asked == [("dinov2", "openai_clip"), ("dinov2",), ()]
