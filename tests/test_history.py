"""The history of fixes: what counts as one, whose it is, and that the page is about the ledger as it stands."""

from __future__ import annotations

import re

import msgspec
import pytest
from packaging.version import Version

from tests.documents import ROOT
from timm_conformance.families import FAMILIES
from timm_conformance.history import fixes, observations
from timm_conformance.history.observations import Observed
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.entries import DEFAULT_LEDGER, Entry, Ledger, load_ledger
from timm_conformance.targets.target import MODEL_RELEASE

BUG = Entry(
    id="bug",
    kind="bug",
    title="",
    releases=">=1.0,<1.2",
    families=["deit"],
    shows=["strict-load:size-mismatch:*"],
    regime=["patch-grow"],
    explanation="",
)
SIZE = ("size-mismatch", "pos_embed")


def case(*failures: tuple[str, str], regime: str = "patch-grow", judged: bool = True) -> Observed:
    """What a release makes of a case that only strict-load judges."""
    failed = {"strict-load": list(failures)} if failures else {}
    passed = frozenset({"strict-load"} if judged and not failures else ())
    return Observed(passed, failed, frozenset({regime}))


def seen(*releases: Observed) -> dict:
    """One case of one family on 1.0, 1.1 and so on."""
    return {f"1.{n}": {"deit": [observed]} for n, observed in enumerate(releases)}


def told(found, known_bugs=None):
    """Fixes in short, with what is wrong about them."""
    known_bugs = known_bugs or Ledger([BUG])
    versions = list(found)
    mended = fixes.fixes(found, known_bugs)
    return (
        [(f.old, f.new, f.entry) for f in mended],
        len(fixes.unknown(mended)),
        len(fixes.unseen(mended, known_bugs, versions)),
    )


@pytest.mark.parametrize(
    ("releases", "expected"),
    [
        ((case(SIZE), case(SIZE), case()), ([("1.1", "1.2", "bug")], 0, 0)),
        # Mended where no entry ends, and the entry's end not seen.
        ((case(SIZE), case(), case()), ([("1.0", "1.1", "")], 1, 1)),
        # Another failure, and another regime, than the entry's.
        ((case(SIZE), case(("value", "pos_embed")), case()), ([("1.1", "1.2", "")], 1, 1)),
        ((case(SIZE), case(SIZE, regime="native"), case()), ([("1.1", "1.2", "")], 1, 1)),
        # Another failure in its place ends an entry, and is no fix without one.
        ((case(SIZE), case(SIZE), case(("value", "pos_embed"))), ([("1.1", "1.2", "bug")], 0, 0)),
        ((case(SIZE), case(("value", "pos_embed")), case(("value", "pos_embed"))), ([], 0, 1)),
        # No longer judged is not mended.
        ((case(SIZE), case(SIZE), case(judged=False)), ([], 0, 1)),
        ((case(), case(), case()), ([], 0, 1)),
    ],
)
def test_a_fix_is_a_failure_that_passes_in_the_next_release(releases, expected):
    """It belongs to the entry that covers it and ends there."""
    assert told(seen(*releases)) == expected


def test_what_only_a_gpu_shows_is_not_looked_for():
    """These cases run on the CPU."""
    elsewhere = msgspec.structs.replace(BUG, regime=["off-cpu"])
    assert list(fixes.ends(Ledger([BUG]), ["1.1", "1.2"])) == [(BUG, "1.1", "1.2")]
    assert not list(fixes.ends(Ledger([elsewhere]), ["1.1", "1.2"]))


def test_the_same_failure_of_several_cases_is_one_fix():
    """And families that a release does not know are none of its business."""
    found = {
        "1.1": {"deit": [case(SIZE), case(SIZE), case()]},
        "1.2": {"deit": [case(), case(), case()], "radio": [case()]},
    }
    (fix,) = fixes.fixes(found, Ledger([BUG]))
    assert (fix.family, fix.invariant, fix.kind, fix.tensor, fix.cases) == ("deit", "strict-load", *SIZE, {0, 1})
    text = fixes.page([fix], found, Ledger([BUG]), ["what is missing"])
    assert "The ledger has 1 fixes between these releases, and the session shows 1 of them." in text
    assert "| 1.1 | 1.2 | [`bug`](ledger.md#bug) | `deit` | `strict-load` | 2 | pass |" in text
    assert "| 1.2 | `bug` | `size-mismatch` `pos_embed` | `deit` | `strict-load` | 2 |" in text
    assert "- what is missing" in text


def test_cases_are_judged_as_they_are_drawn(tmp_path):
    """One family on a real release: every invariant, and the failures the ledger knows of."""
    request = observations.Request(f"timm=={MODEL_RELEASE}", ["openai_clip"], "smoke", 0, str(tmp_path))
    cases = observations.observe(request)["openai_clip"]
    assert cases == observations.observe(request)["openai_clip"]
    entries = load_ledger(DEFAULT_LEDGER).active(Version(MODEL_RELEASE))
    failures = [(i, *p, c.regimes) for c in cases for i, problems in c.failed.items() for p in problems]
    assert failures
    for invariant, kind, tensor, regimes in failures:
        assert any(e.covers("openai_clip", invariant, kind, tensor, regimes) for e in entries), (
            invariant,
            kind,
            tensor,
        )
    concerned = {i.name for i in INVARIANTS.values() if i.concerns(FAMILIES["openai_clip"])}
    judged = {name for c in cases for name in (*c.passed, *c.failed)}
    assert {"strict-load", "reference-agreement", "native-identity"} < judged <= concerned


def test_the_page_tells_every_end_of_a_ledger_entry():
    """And no other: it was written with the ledger of today."""
    text = (ROOT / "docs/history.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| \[`([\w-]+)`\]", text, re.M)
    known_bugs = load_ledger(DEFAULT_LEDGER)
    for old, new, name in rows:
        entry = known_bugs.entry(name)
        assert entry.applies_to(Version(old))
        assert not entry.applies_to(Version(new))
    ended = {
        e.id
        for e in known_bugs.entries
        if e.releases and not e.names(Version(MODEL_RELEASE)) and e.regime != ["off-cpu"]
    }
    assert {name for _, _, name in rows} == ended
    assert "| none |" not in text
    assert "no case of the gate shows it" not in text
