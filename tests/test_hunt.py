"""Hunts: rounds by other seeds until the time is over, added up; what they find is kept and can be drawn again."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner

from tests.test_cli import cli
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.cases.selection import Selection
from timm_conformance.cli.main import main
from timm_conformance.drawing.strategies import strata_of
from timm_conformance.families import FAMILIES
from timm_conformance.ledger.entries import DEFAULT_LEDGER, Ledger
from timm_conformance.report.progress import Watch
from timm_conformance.report.publish import conclude, find_gaps
from timm_conformance.report.terminal import describe_rounds, make_console
from timm_conformance.results import records as results
from timm_conformance.results.outcome import exit_code
from timm_conformance.results.records import Failure, Header, Results, Round, Verdict, Witness
from timm_conformance.runner import hunting, resuming, worker
from timm_conformance.runner.plan import INTERRUPTED, Plan, Work
from timm_conformance.runner.run import run

CASE = Case("deit", {"embed_dim": 8}, Geometry((2, 2), (1, 1)), Geometry((3, 3), (1, 1)))
PLAN = Plan(("reference",), Selection(tuple(FAMILIES), seed=7))


class Clock:
    """A clock that only stands still or is put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        """The time it shows."""
        return self.now

    monotonic = time


def header(seed: int) -> Header:
    """What a worker says first."""
    return Header(
        "reference", "1.0.31", "3.11", "2.13", "Linux", "cpu", [], "deep", seed, ["deit"], {"finite": ["native"]}
    )


def failure(fingerprint: str, seed: int, count: int = 1) -> Failure:
    """A failure of one fingerprint, met by a seed."""
    return Failure(fingerprint, "not-finite", "pos_embed", "it is NaN", CASE, count, 4.0, seed)


@pytest.fixture
def hunt(monkeypatch):
    """A hunt of 10 minutes of which each round takes 4, by a runner that only makes records."""
    clock, plans = Clock(), []
    monkeypatch.setattr(hunting, "time", clock)
    monkeypatch.setattr("timm_conformance.runner.plan.time", clock)

    def fake(plan, watch, records=()):
        plans.append(plan)
        clock.now += 240
        return Results(
            [header(plan.selection.seed), Verdict("reference", "deit", "finite", "pass", {"pass": 3}), *records]
        )

    def start(run_plan=fake, keep=lambda found: None):
        monkeypatch.setattr(hunting, "run_plan", run_plan)
        return hunting.hunt(state.plan, 10, watching=partial(Watch, console=make_console()), tell=print, keep=keep)

    state = SimpleNamespace(start=start, fake=fake, plans=plans, clock=clock, plan=PLAN)
    return state


def test_rounds_follow_until_the_time_is_over(hunt):
    """Each has the next seed and the same end; the third is cut off by it, and there is no fourth."""
    kept = []
    found = hunt.start(keep=kept.append)
    assert [(r.seed, r.cases, r.whole) for r in found.rounds] == [(7, 3, True), (8, 3, True), (9, 3, False)]
    assert [p.selection.seed for p in hunt.plans] == [7, 8, 9]
    assert {p.until for p in hunt.plans} == {1600.0}
    assert [p.replay for p in hunt.plans] == [True, False, False]
    assert [len(k.rounds) for k in kept] == [1, 2]
    assert describe_rounds(found) == "3 rounds (seeds 7 to 9, the last one ended by the time): 9 cases"


def test_no_family_is_always_the_last(hunt):
    """Each round has all of them, in another order; the same one for the same seed."""
    hunt.start()
    hunt.start()
    orders = [p.families_of("reference") for p in hunt.plans]
    assert all(sorted(o) == sorted(FAMILIES) for o in orders)
    assert len(set(orders)) == 3
    assert orders[:3] == [hunt.plans[i].families_of("reference") for i in (3, 4, 5)]


def test_an_interrupt_ends_a_hunt_and_nothing_else(hunt):
    """What it kept from being judged is no error, and hides nothing of the round before."""

    def interrupted(plan, watch):
        given_up = Verdict("reference", "deit", "finite", "error", reason=INTERRUPTED)
        found = hunt.fake(plan, watch)
        return Results([*found.headers, given_up]) if plan.selection.seed == 8 else found

    found = hunt.start(interrupted)
    assert [r.seed for r in found.rounds] == [7]
    assert [v.verdict for v in found.verdicts] == ["pass"]


def test_verdicts_are_added_up():
    """Cases, regimes and known bugs; the worse verdict; one failure a fingerprint; of headers one, with the first seed."""
    first = Results(
        [
            header(7),
            Witness("reference", "x", "fixed", True),
            Verdict(
                "reference",
                "deit",
                "finite",
                "known",
                {"pass": 2, "known": 1},
                {"any": 3},
                ["native"],
                {"bug": 1},
                worst=0.5,
            ),
            Verdict("reference", "deit", "strict-load", "pass", {"pass": 3}, {"any": 3}, worst=0.25),
            Round(7, 3, 1.0, True),
        ]
    )
    second = Results(
        [
            header(8),
            Verdict(
                "reference",
                "deit",
                "finite",
                "fail",
                {"pass": 1, "fail": 2, "known": 4},
                {"any": 7, "native": 2},
                [],
                {"bug": 4},
                [failure("a", 8, 2)],
            ),
            Verdict("reference", "deit", "strict-load", "not-applicable", reason="nothing to load"),
            Round(8, 7, 1.0, True),
        ]
    )
    third = Results(
        [
            header(9),
            Verdict("reference", "deit", "finite", "fail", {"fail": 2}, failures=[failure("a", 9), failure("b", 9)]),
        ]
    )
    found = hunting.add_round(hunting.add_round(hunting.add_round(Results(), first), second), third)
    assert [h.seed for h in found.headers] == [7]
    assert [r.seed for r in found.rounds] == [7, 8]
    assert len(found.witnesses) == 1
    finite, strict = found.verdicts[::-1] if found.verdicts[0].invariant != "finite" else found.verdicts
    assert finite.verdict == "fail"
    assert finite.cases == {"pass": 3, "known": 5, "fail": 4}
    assert finite.regimes == {"any": 10, "native": 2}
    assert finite.excused == []
    assert finite.known == {"bug": 5}
    assert finite.worst == 0.5
    assert [(f.fingerprint, f.count, f.seed) for f in finite.failures] == [("a", 3, 8), ("b", 1, 9)]
    assert (strict.verdict, strict.cases, strict.worst, strict.reason) == ("pass", {"pass": 3}, 0.25, "")


@pytest.mark.parametrize(("whole", "gaps"), [(True, ["reference: finite met no case of regime native"]), (False, [])])
def test_a_hunt_whose_first_round_was_cut_off_is_asked_for_no_regime(whole, gaps):
    """It cannot have met every one; a whole round must have."""
    records = [
        header(7),
        Verdict("reference", "deit", "finite", "pass", {"pass": 3}, {"any": 3}),
        Round(7, 3, 1.0, whole),
    ]
    assert find_gaps(Results(records), [Results(records)]) == gaps


def test_a_target_that_a_hunt_never_came_to_is_an_error(hunt):
    """It ends the run with 2: nobody may take it for judged."""
    hunt.plan = dataclasses.replace(PLAN, targets=("reference", "timm==1.0.31"))

    def slow(plan, watch):
        hunt.clock.now += 600
        return hunt.fake(plan, watch)

    found = hunt.start(slow)
    assert list(found.errors) == ["timm==1.0.31"]
    assert exit_code(found, []) == 2


def test_a_hunt_is_not_gone_on_with():
    """Neither by itself nor by a run of its first seed: sums over seeds are nobody else's results."""
    done = CliRunner().invoke(main, ["run", "reference", "--minutes", "1", "--resume"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "cannot be combined with --minutes" in done.stderr
    plan = Plan(("reference",), Selection(("deit",), ("finite",), profile="deep", seed=7))
    suite = resuming.suite_digest(str(DEFAULT_LEDGER))
    records = [
        msgspec.structs.replace(header(7), suite=suite),
        Verdict("reference", "deit", "finite", "pass", {"pass": 3}),
    ]
    for more, kept in (([], 1), ([Round(7, 3, 1.0, False)], 0)):
        found = resuming.finished(Results([*records, *more]), plan, Ledger(), str(DEFAULT_LEDGER))
        assert len(found.verdicts) == kept


def test_rounds_outlive_reading_merging_and_reports():
    """They are lines of results.ndjson."""
    lines = [results.encode(r) for r in (header(7), Round(7, 3, 1.0, True))]
    found, _, _ = conclude([Results(results.decode(lines))], Ledger())
    assert found.rounds == [Round(7, 3, 1.0, True)]


def test_however_short_the_time_something_is_judged():
    """One worker is begun and judges one stratum of one family; what it did not come to is no error."""
    selection = msgspec.structs.replace(PLAN.selection, invariants=("finite",), profile="smoke")
    found = run(dataclasses.replace(PLAN, selection=selection, jobs=1, until=1.0))
    (verdict,) = found.verdicts
    assert verdict.verdict in ("pass", "not-applicable")
    assert found.loads[0].cases


def test_a_worker_ends_with_the_stratum_that_the_time_ends_in(tmp_path, monkeypatch):
    """What it has judged of that family counts; the family after it is not begun."""
    monkeypatch.setattr(worker, "gc", SimpleNamespace(freeze=lambda: None, set_threshold=lambda count: None))
    ticks = itertools.count()
    monkeypatch.setattr("timm_conformance.drawing.drawing.time", SimpleNamespace(time=lambda: next(ticks)))
    report, families = tmp_path / "report.ndjson", ("deit", "radio")
    worker.main(Work(str(report), "reference", Selection(families, ("finite",), profile="smoke"), until=5))
    found = Results(results.read(report))
    assert found.footers
    assert [v.family for v in found.verdicts] == ["deit"]
    (loads,) = found.loads
    assert 0 < len(loads.cases) < len(strata_of(FAMILIES["deit"]))


TARGET = "loader:tests.bad_loaders:returns_nonsense"
SELECT = ["--family", "openai_clip", "--invariant", "strict-load", "--profile", "smoke"]


@pytest.fixture(scope="module")
def bad_hunt(tmp_path_factory):
    """A loader hunted that fails on every case, by seeds from 7."""
    out = tmp_path_factory.mktemp("hunt")
    return cli("run", TARGET, *SELECT, "--minutes", "0.05", "--seed", "7", "--out", str(out)), out


def test_a_hunt_finds_and_tells_the_seed(bad_hunt):
    """Exit code 1, the seeds in terminal, summary and report, and each failure's in results."""
    done, out = bad_hunt
    assert done.returncode == 1, done.stdout + done.stderr
    found = Results(results.read(out / "results.ndjson"))
    seeds = [r.seed for r in found.rounds]
    assert seeds == list(range(7, 7 + len(seeds)))
    (failure,) = found.verdicts[0].failures
    assert failure.seed in seeds
    for text in (done.stdout, (out / "summary.md").read_text(), (out / "report.html").read_text()):
        assert describe_rounds(found) in " ".join(text.split())
    assert f"drawn by seed {failure.seed}" in done.stdout


def test_a_seed_told_draws_the_failure_again(bad_hunt, tmp_path):
    """A run by it, with the same selection, ends in the same smallest case."""
    _, out = bad_hunt
    (first,) = Results(results.read(out / "results.ndjson")).verdicts[0].failures
    cli("run", TARGET, *SELECT, "--seed", str(first.seed), "--out", str(tmp_path))
    (again,) = Results(results.read(tmp_path / "results.ndjson")).verdicts[0].failures
    assert (first.fingerprint, first.case, first.seed) == (again.fingerprint, again.case, again.seed)


def test_the_next_hunt_replays_first_what_the_last_one_kept(bad_hunt):
    """Its folder is the example database: replayed before a case is drawn, whatever the seed."""
    _, out = bad_hunt
    kept = [str(path) for path in out.glob("witnesses/*/*.json")]
    assert kept
    done = cli("run", TARGET, *SELECT, "--minutes", "0.001", "--out", str(out))
    assert done.returncode == 1, done.stdout + done.stderr
    found = Results(results.read(out / "results.ndjson"))
    assert {w.id: w.replay for w in found.witnesses if w.id in kept} == dict.fromkeys(kept, "fails")
    lines = done.stdout.splitlines()
    replayed = next(n for n, line in enumerate(lines) if line.startswith(f"  {TARGET}  witness "))
    assert replayed < next(n for n, line in enumerate(lines) if line.startswith("✗"))
