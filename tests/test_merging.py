"""Results laid over one another: shards, partial runs, stale ledger entries, and going on with a run."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from timm_conformance.cases.case import Case, Geometry
from timm_conformance.cases.selection import Selection
from timm_conformance.engine.digests import source_digest, suite_digest
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES
from timm_conformance.ledger.entries import DEFAULT_LEDGER, Ledger, load_ledger
from timm_conformance.ledger.settling import settle_results
from timm_conformance.ledger.witnesses import read_witness, write_witness
from timm_conformance.results.merging import footer_of, merge_results, shards_of
from timm_conformance.results.records import (
    Failure,
    Footer,
    Header,
    LoadedCase,
    Loads,
    Results,
    TargetError,
    Verdict,
    Witness,
)
from timm_conformance.runner import resuming
from timm_conformance.runner.plan import Plan
from timm_conformance.runner.sharding import share

BOOK = load_ledger(DEFAULT_LEDGER)
NAMES = list(FAMILIES)


def header(target, families, invariants=("i", "j"), **more):
    """A header of a worker."""
    return Header(
        target, "1.0", "3", "2", "p", "cpu", [], "gate", 0, list(families), {i: [] for i in invariants}, **more
    )


def results(target, families, verdict="pass", invariants=("i", "j"), shard=None):
    """Everything a worker reports of some families."""
    verdicts = [Verdict(target, f, i, verdict) for f in families for i in invariants]
    loads = [Loads(target, f, [LoadedCase("1")]) for f in families]
    return Results([header(target, families, invariants), *loads, *verdicts, Footer(1.0, 0, [shard] if shard else [])])


def test_shards_in_any_order_are_the_whole_run():
    """Verdicts, loads and headers of the parts, settled, are those of one run; the seconds add up."""
    whole = settle_results(results("t", NAMES[:5]), BOOK)
    parts = [results("t", NAMES[3:5], shard="2/2"), results("t", NAMES[:3], shard="1/2")]
    assert settle_results(merge_results(parts), BOOK).records == whole.records
    assert footer_of(parts, 0) == Footer(2.0, 0, [])
    assert shards_of(parts) == (["1/2", "2/2"], [])
    assert shards_of(parts[:1]) == (["2/2"], ["1/2"])
    assert footer_of(parts[:1], 0).shards == ["2/2"]


def test_a_later_partial_run_replaces_what_it_judged_again():
    """Cell by cell; the older header keeps the families it still stands for."""
    merged = merge_results([results("t", NAMES[:2]), results("t", NAMES[1:3], "fail")])
    found = {(v.family, v.invariant): v.verdict for v in merged.verdicts}
    assert found == {(f, i): "pass" if f == NAMES[0] else "fail" for f in NAMES[:3] for i in "ij"}
    assert [h.families for h in merged.headers] == [NAMES[:3]]
    other = results("t", NAMES[1:2], "fail")
    other = Results([replace(r, torch="9") if isinstance(r, Header) else r for r in other.records])
    assert [(h.torch, h.families) for h in merge_results([results("t", NAMES[:2]), other]).headers] == [
        ("2", NAMES[:1]),
        ("9", NAMES[1:2]),
    ]
    narrow = results("t", NAMES[:2], "fail", invariants=("i",))
    assert len(merge_results([results("t", NAMES[:2]), narrow]).headers) == 2


def test_a_target_that_starts_after_all_is_no_error_any_more():
    """And one that no longer starts keeps what was known of it."""
    broken = Results([TargetError("t", "no network")])
    assert merge_results([broken, results("t", NAMES[:1])]).errors == {}
    later = merge_results([results("t", NAMES[:1]), broken])
    assert later.errors == {"t": "no network"}
    assert later.verdicts


def test_a_stale_entry_marks_what_it_claims_fixed():
    """Whichever worker replayed its witness; and no longer once the witness fails again."""
    entry = next(e for e in BOOK.entries if e.id == "clip-early-return")
    family = next(f for f in NAMES if entry.claims(f, "strict-load"))
    passing = [Verdict("t", family, i, "pass") for i in ("strict-load", "finite")]
    stale = Witness("t", entry.id, "fixed", False)
    once = settle_results(Results([header("t", [family], ("strict-load", "finite")), *passing, stale]), BOOK)
    assert [v.verdict for v in once.verdicts] == ["fixed", "pass"]
    again = settle_results(merge_results([once, Results([Witness("t", entry.id, "fails", True)])]), BOOK)
    assert [v.verdict for v in again.verdicts] == ["pass", "pass"]


def test_settled_results_are_in_order_and_hold_the_changes():
    """Targets as given, families as registered, changes made anew."""
    a, b = (results(f"timm=={v}", [NAMES[1], NAMES[0]]) for v in ("1.0", "1.1"))
    b = Results([replace(r, timm="1.1") if isinstance(r, Header) else r for r in b.records])
    b = Results(
        [
            replace(r, cases=[LoadedCase("1", deviations={"x": "is missing"})]) if isinstance(r, Loads) else r
            for r in b.records
        ]
    )
    found = settle_results(merge_results([b, a]), BOOK, ["timm==1.0", "timm==1.1"])
    assert found.targets == ["timm==1.0", "timm==1.1"]
    assert found.families == NAMES[:2]
    assert [(c.previous, c.target, c.family) for c in found.changes] == [
        ("timm==1.0", "timm==1.1", f) for f in NAMES[:2]
    ]
    assert settle_results(found, BOOK).records == found.records


TARGETS = ["timm==0.9.0", "timm==1.0.31", "reference"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 50])
def test_shards_share_everything_once(count):
    """Every family of every target is in exactly one shard, in order."""
    shards = [share(TARGETS, NAMES, f"{i}/{count}") for i in range(1, count + 1)]
    cells = [(t, f) for shard in shards for t, families in shard.items() for f in families]
    assert cells == [(t, f) for t in TARGETS for f in NAMES]


def test_shards_cost_about_the_same():
    """By the weights of the families a release knows."""
    from timm_conformance.runner.sharding import weight

    costs = [sum(weight(t, f) for t, fs in share(TARGETS, NAMES, f"{i}/4").items() for f in fs) for i in range(1, 5)]
    heaviest = max(f.weight for f in FAMILIES.values())
    assert max(costs) - min(costs) <= 2 * heaviest


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0"])
def test_a_malformed_shard_is_a_users_mistake(shard):
    """One line that says how to write it."""
    with pytest.raises(UserError, match="write I/N"):
        share(TARGETS, NAMES, shard)


def test_more_shards_than_families_leave_some_empty():
    """Said, and not judged as nothing."""
    with pytest.raises(UserError, match="only 1 families"):
        share(["reference"], NAMES[:1], "1/2")


PLAN = Plan(("reference", "timm==1.0.31"), Selection(tuple(NAMES[:2]), ("finite", "strict-load")))


def earlier(target="reference", families=NAMES[:2], **more):
    """Results of an earlier run of the plan by this suite."""
    digest = {"suite": suite_digest(DEFAULT_LEDGER), "source": source_digest(target)}
    start, *rest = results(target, families, invariants=PLAN.selection.invariants).records
    return Results([replace(start, **{**digest, **more}), *rest])


def finished(found):
    """What the plan need not do again."""
    return resuming.finished(found, PLAN, BOOK, str(DEFAULT_LEDGER))


def test_what_is_done_is_not_done_again():
    """Families judged to the end are kept; the plan is what remains."""
    done = finished(earlier(families=NAMES[:1]))
    assert {(v.target, v.family) for v in done.verdicts} == {("reference", NAMES[0])}
    left = resuming.remaining(PLAN, done)
    assert left.shares == {"reference": (NAMES[1],), "timm==1.0.31": tuple(NAMES[:2])}
    everything = merge_results([earlier(), earlier("timm==1.0.31")])
    assert resuming.remaining(PLAN, finished(everything)).targets == ()


def test_what_was_replayed_is_kept_with_its_family(tmp_path):
    """The ledger's witnesses, and those a run left in its folder; not those of families to be judged again."""
    case = Case(NAMES[0], {"embed_dim": 8}, Geometry((2, 2), (1, 1)), Geometry((3, 3), (1, 1)))
    left = write_witness(tmp_path, "finite", Failure("f", "not-finite", "x", "", case))
    known_bugs = Ledger(witnesses={"entry": read_witness(left)})
    names = ("entry", str(left), str(tmp_path / "gone.json"))
    replayed = [Witness("reference", name, "fails", False) for name in names]
    for family, kept in ((NAMES[0], {"entry", str(left)}), (NAMES[1], set())):
        found = Results([*earlier(families=[family]).records, *replayed])
        done = resuming.finished(found, PLAN, known_bugs, str(DEFAULT_LEDGER))
        assert {w.id for w in done.witnesses} == kept


@pytest.mark.parametrize(
    "more", [{"suite": "another"}, {"source": "x"}, {"seed": 1}, {"profile": "deep"}, {"focused": True}]
)
def test_what_another_suite_or_run_did_is_done_again(more):
    """Another suite, source, seed, profile or choice of cases."""
    assert not finished(earlier(**more)).verdicts


def test_a_family_cut_off_or_in_error_is_done_again():
    """A verdict missing, or an error: what caused it may be gone."""
    found = earlier()
    cut = Results(
        [r for r in found.records if not (isinstance(r, Verdict) and (r.family, r.invariant) == (NAMES[0], "finite"))]
    )
    assert {v.family for v in finished(cut).verdicts} == {NAMES[1]}
    wrong = [
        replace(r, verdict="error") if isinstance(r, Verdict) and r.family == NAMES[1] else r for r in found.records
    ]
    assert {v.family for v in finished(Results(wrong)).verdicts} == {NAMES[0]}


def test_digests_follow_what_they_stand_for(tmp_path):
    """A ledger, a checkout: another text, another digest. A release never changes."""
    (tmp_path / "witnesses").mkdir()
    ledger = tmp_path / "ledger.toml"
    ledger.write_text("")
    before = suite_digest(ledger)
    (tmp_path / "witnesses" / "a.json").write_text("{}")
    assert suite_digest(ledger) != before
    package = tmp_path / "timm"
    package.mkdir()
    (package / "__init__.py").write_text("")
    digests = [source_digest(f"path:{tmp_path}")]
    (package / "models.py").write_text("x = 1")
    digests.append(source_digest(f"path:{tmp_path}"))
    assert len(set(digests)) == 2
    assert source_digest("timm==1.0.31") == source_digest("reference") == ""
    assert source_digest("loader:a:b") is None
