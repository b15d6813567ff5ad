"""Two results compared, and releases bisected."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from timm_conformance.cases.case import Case, Geometry
from timm_conformance.cli.main import main
from timm_conformance.errors import UserError
from timm_conformance.results.bisection import describe_state, search, state_of, transitions
from timm_conformance.results.diffing import difference
from timm_conformance.results.records import Failure, Footer, LoadedCase, Loads, Results, TargetError, Verdict, Witness

CASE = Case("openai_clip", {}, *[Geometry((2, 2), (1, 1))] * 2)


def cell(verdict, *names, family="openai_clip", invariant="strict-load", target="t"):
    """A verdict with failures or known bugs of these names."""
    if verdict == "known":
        return Verdict(target, family, invariant, "known", known=dict.fromkeys(names, 1))
    return Verdict(target, family, invariant, verdict, failures=[Failure(n, "k", "x", "wrong", CASE) for n in names])


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        (cell("pass"), cell("pass"), []),
        (cell("pass"), cell("fail", "a"), ["new-failure"]),
        (cell("fail", "a"), cell("fail", "a"), []),
        (cell("fail", "a"), cell("fail", "b"), ["new-failure", "fixed"]),
        (cell("known", "e"), cell("fail", "b"), ["new-failure", "changed"]),
        (cell("known", "e"), cell("known", "e", "f"), ["changed"]),
        (cell("pass"), cell("known", "e"), ["changed"]),
        (cell("known", "e"), cell("pass"), ["fixed"]),
        (cell("fail", "a"), cell("pass"), ["fixed"]),
        (cell("pass"), cell("not-applicable"), ["newly-not-run"]),
        (cell("fail", "a"), cell("error"), ["newly-not-run"]),
        (cell("pass"), None, ["newly-not-run"]),
        (cell("not-applicable"), cell("pass"), ["newly-run"]),
        (None, cell("fail", "a"), ["new-failure", "newly-run"]),
    ],
)
def test_what_differs_between_two_verdicts(old, new, kinds):
    """New failures by fingerprint, fixed ones, ledger entries that come or go, what is no longer judged."""
    others = [cell("pass", invariant="finite")]
    sides = [Results([*others, *([v] if v else [])]) for v in (old, new)]
    found = difference(*sides)
    assert [d.kind for d in found] == kinds
    assert all((d.family, d.invariant) == ("openai_clip", "strict-load") for d in found)


def test_other_values_are_a_change_though_both_pass():
    """The loads are compared as releases are."""
    old, new = (
        Results([cell("pass"), Loads("t", "openai_clip", [LoadedCase("1", deviations=d)])])
        for d in ({}, {"pos_embed": [50.0] * 4})
    )
    (found,) = difference(old, new)
    assert (found.kind, found.family, found.invariant) == ("changed", "openai_clip", "")
    assert found.text == "pos_embed: 1 of 1 cases load otherwise, by up to 50 times what rounding allows"


def test_a_target_that_no_longer_starts_is_newly_not_run():
    """With its reason, beside its cells."""
    found = difference(Results([cell("pass")]), Results([TargetError("t", "no network")]))
    assert {(d.kind, d.text) for d in found} == {
        ("newly-not-run", "cannot start: no network"),
        ("newly-not-run", "is not in the results"),
    }


def test_targets_of_other_names_are_compared_when_there_is_one_each():
    """A checkout with a release; anything else must have a target in common."""
    old, new = Results([cell("pass", target="timm==1.0.31")]), Results([cell("fail", "a", target="path:x")])
    assert [d.target for d in difference(old, new)] == ["timm==1.0.31 -> path:x"]
    with pytest.raises(UserError, match="no target is in both"):
        difference(old, Results([cell("pass", target="a"), cell("pass", target="b")]))


def test_diff_on_the_command_line(tmp_path):
    """Exit 1 on a new failure, 0 otherwise, 2 for what is no result; three formats."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, verdict in ((old, cell("pass")), (new, cell("fail", "f:p"))):
        folder.mkdir()
        Results([verdict, Footer(1.0)]).write(folder / "results.ndjson")
    forms = {
        f: CliRunner().invoke(main, ["diff", str(old), str(new), "--format", f]) for f in ("table", "markdown", "json")
    }
    assert {done.exit_code for done in forms.values()} == {1}
    assert "New failures (1)\n  t  openai_clip:strict-load: f:p: wrong" in forms["table"].output
    assert forms["markdown"].output.startswith("## New failures")
    assert json.loads(forms["json"].output)[0]["kind"] == "new-failure"
    back = CliRunner().invoke(main, ["diff", str(new), str(old)])
    assert back.exit_code == 0
    assert back.output.splitlines()[-1] == "1 fixed"
    assert CliRunner().invoke(main, ["diff", str(old), str(old)]).output.strip() == "no difference"
    wrong = CliRunner().invoke(main, ["diff", str(old), str(tmp_path / "none")])
    assert wrong.exit_code == 2
    assert "name a folder that a run wrote" in wrong.stderr


RELEASES = [f"r{n}" for n in range(38)]


def judged(states):
    """A judge of states by release, and the list of what it was asked."""
    asked = []

    def judge(names):
        asked.append(names)
        return {n: states(int(n[1:])) for n in names}

    return judge, asked


@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("change", [1, 17, 36, 37])
def test_a_search_finds_the_neighbours_a_state_changes_between(change, at_once):
    """In a few rounds, whichever release it is."""
    judge, asked = judged(lambda n: frozenset({"bug"}) if n < change else frozenset())
    found = list(transitions(search(RELEASES, judge, at_once)))
    assert found == [(f"r{change - 1}", f"r{change}", "first good release, without bug")]
    assert sum(map(len, asked)) <= 2 + 6 * at_once


def test_a_search_finds_every_change_of_a_set():
    """One bug goes, another comes, a third release cannot be judged."""
    judge, _ = judged(lambda n: None if n < 3 else frozenset({"a"}) if n < 20 else frozenset({"b"}))
    assert list(transitions(search(RELEASES, judge, 2))) == [
        ("r2", "r3", "judged for the first time: fails: a"),
        ("r19", "r20", "first bad release, with b; first good release, without a"),
    ]


def test_equal_ends_are_all_that_is_looked_at_unless_every_release_is():
    """A bug that came and went between them takes --every."""
    states = lambda n: frozenset({"a"}) if 10 <= n < 12 else frozenset()  # noqa: E731
    judge, asked = judged(states)
    assert not list(transitions(search(RELEASES, judge, 2)))
    assert asked == [["r0", "r37"]]
    assert len(list(transitions(search(RELEASES, judged(states)[0], 2, every=True)))) == 2
    assert search(["r1"], judged(states)[0], 2) == {"r1": frozenset()}


def test_states_are_what_fails():
    """Entries and fingerprints without their regimes; a replay's witness; nothing where nothing is judged."""
    failing = Results([cell("known", "e"), cell("fail", "i:f:k:x[patch-grow]")])
    assert state_of(failing, "t") == {"e", "i:f:k:x"}
    assert state_of(Results([cell("pass")]), "t") == frozenset()
    assert state_of(Results([cell("not-applicable")]), "t") is None
    assert state_of(Results([TargetError("t", "")]), "t") is None
    assert state_of(Results([Witness("t", "w", "fails", True)]), "t") == {"w"}
    assert state_of(Results([Witness("t", "w", "fixed", True)]), "t") == frozenset()
    assert state_of(Results([Witness("t", "w", "error", False)]), "t") is None
    assert [describe_state(s) for s in (None, frozenset(), frozenset({"b", "a"}))] == [
        "not judged",
        "passes",
        "fails: a, b",
    ]
