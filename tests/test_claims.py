"""The claims of the ledger: what counts as one, what shows one, and that the ledger claims nothing that was not observed."""

from __future__ import annotations

import msgspec
import pytest

from tests.documents import ROOT
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES
from timm_conformance.history import claims, claims_page, search
from timm_conformance.history.candidates import candidates
from timm_conformance.history.claims import Claim, Evidence, Shown
from timm_conformance.history.observations import Observed
from timm_conformance.history.rounds import Rounds
from timm_conformance.history.search import Found, Wanted
from timm_conformance.ledger.entries import DEFAULT_LEDGER, Entry, Ledger, load_ledger
from timm_conformance.ledger.witnesses import WitnessFile
from timm_conformance.targets.releases import FIRST_RELEASE
from timm_conformance.targets.target import MODEL_RELEASE

SIZE = "strict-load:size-mismatch:pos_embed"
BUG = Entry(
    id="bug",
    kind="bug",
    title="",
    releases=">=0.9.1,<1.0.3",
    families=["deit", "openai_clip_ddp"],
    shows=["strict-load:size-mismatch:*", "finite:*:*"],
    regime=["patch-grow", "grid-grow"],
    explanation="",
)
CASE = Case("deit", {}, Geometry((2, 2), (2, 2)), Geometry((3, 3), (2, 2)))
KNOWN = Ledger([BUG], {"bug": WitnessFile("strict-load", "size-mismatch", "pos_embed", CASE)})
VERSIONS = ["0.9.0", "0.9.1", "0.9.2", "0.9.16", "1.0.3"]
# openai_clip_ddp is known since 0.9.9.
CLAIMS = [Claim("bug", "deit", v) for v in VERSIONS[1:4]] + [Claim("bug", "openai_clip_ddp", "0.9.16")]


def gate(*regimes: str, failure: tuple[str, str] = ("size-mismatch", "pos_embed")) -> list[Observed]:
    """The one case of a family, which fails a strict load."""
    return [Observed(frozenset(), {"strict-load": [failure]}, frozenset(regimes))]


def test_a_claim_is_a_family_on_a_release_that_knows_it():
    """Inside the range."""
    assert sorted(claims.claims(KNOWN, VERSIONS)) == sorted(CLAIMS)


@pytest.mark.parametrize("change", [{"kind": "dependency"}, {"regime": ["off-cpu"]}])
def test_what_no_run_of_releases_on_a_cpu_can_show_is_no_claim(change):
    """A fault of a dependency, and what shows on a GPU only."""
    assert not list(claims.claims(Ledger([msgspec.structs.replace(BUG, **change)]), VERSIONS))


def test_a_failure_that_the_entry_covers_shows_a_claim():
    """Another failure, another regime, another family or another release does not."""
    found = claims.seen_in(
        KNOWN,
        {
            "0.9.0": {"deit": gate("patch-grow")},
            "0.9.1": {"deit": gate("patch-grow", "grid-grow"), "eva": gate("patch-grow")},
            "0.9.2": {"deit": gate("patch-grow", failure=("shape", "pos_embed"))},
            "0.9.16": {"deit": gate("patch-native")},
            "1.0.3": {"deit": gate("patch-grow")},
        },
    )
    assert found == {CLAIMS[0]: {Evidence(SIZE, "patch-grow"), Evidence(SIZE, "grid-grow")}}


def observed(*shown: Shown, family: str = "deit") -> claims.Observed:
    """A file in which one family showed the bug, and the other showed it as claimed."""
    other = {"openai_clip_ddp": [Shown(SIZE, "patch-grow", [("0.9.16", "0.9.16")])]}
    return claims.Observed(VERSIONS, {"bug": {family: list(shown), **other}}, {}, {})


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ([Shown(SIZE, "patch-grow", [("0.9.1", "0.9.16")])], None),
        ([Shown(SIZE, "patch-grow", [("0.9.0", "1.0.3")])], None),
        ([Shown(SIZE, "patch-grow", [("0.9.1", "0.9.1")]), Shown(SIZE, "grid-grow", [("0.9.2", "0.9.16")])], None),
        ([Shown(SIZE, "patch-grow", [("0.9.1", "0.9.1"), ("0.9.16", "0.9.16")])], "0.9.2"),
        ([], "0.9.1 to 0.9.16"),
        # The entry no longer covers what was seen.
        ([Shown(SIZE, "patch-mixed", [("0.9.1", "0.9.16")])], "0.9.1 to 0.9.16"),
        ([Shown("strict-load:shape:pos_embed", "patch-grow", [("0.9.1", "0.9.16")])], "0.9.1 to 0.9.16"),
    ],
)
def test_a_claim_that_was_not_observed_is_one_line(shown, missing):
    """It names the entry, the family and the releases."""
    line = f"ledger entry bug claims deit on timm {missing}, and no case shows it there"
    assert claims.unobserved(KNOWN, observed(*shown)) == ([line] if missing else [])


def test_another_family_is_another_claim():
    """What one family shows says nothing about another."""
    (line,) = claims.unobserved(KNOWN, observed(Shown(SIZE, "patch-grow", [("0.9.1", "0.9.16")]), family="eva"))
    assert line.startswith("ledger entry bug claims deit ")


def test_the_file_keeps_the_fewest_failures_that_show_all_releases():
    """And names what nothing met."""
    seen = {claim: {Evidence(SIZE, "patch-grow")} for claim in CLAIMS}
    seen[CLAIMS[1]].add(Evidence("strict-load:size-mismatch:cls_token", "patch-grow"))
    kept = claims.stored(KNOWN, seen, VERSIONS, {("bug", "deit"): [CASE]})
    assert kept.shown["bug"]["deit"] == [Shown(SIZE, "patch-grow", [("0.9.1", "0.9.16")])]
    assert kept.unseen == {"bug": ["finite:*:*", "grid-grow"]}
    assert kept.cases == {"bug": {"deit": [CASE]}}
    assert not claims.unobserved(KNOWN, kept)
    assert msgspec.json.decode(claims.file_text(kept), type=claims.Observed) == kept
    text = claims_page.page(KNOWN, kept)
    assert "| [`bug`](ledger.md#bug) | `deit` | 0.9.1 to 0.9.16 | `strict-load` |" in text
    assert "these are 4 claims" in text
    assert "- [`bug`](ledger.md#bug): `finite:*:*`, `grid-grow`" in text


def test_what_shows_a_claim_on_one_release_is_tried_on_the_others():
    """Each family is searched for once: here it shows on every release but the newest."""
    asked: list[tuple[str, str, bool, int]] = []

    def look(release: str, wanted: list[Wanted]) -> list[Found]:
        asked.extend((release, one.family, one.search, len(one.cases)) for one in wanted)
        shown = [one for one in wanted if release != "0.9.16" and (one.search or one.cases)]
        return [Found(one.entry.id, one.family, SIZE, "patch-grow", CASE) for one in shown]

    rounds = Rounds(KNOWN, {CLAIMS[3]: set()}, {}, look, 1)
    rounds.complete(CLAIMS, VERSIONS)
    searches = [(release, family) for release, family, search, _ in asked if search]
    assert searches == [("0.9.16", "deit"), ("0.9.1", "deit")]
    assert ("0.9.2", "deit", False, 1) in asked
    assert set(rounds.seen) == {*CLAIMS[:2], CLAIMS[3]}
    assert rounds.used == {("bug", "deit"): [CASE]}


def test_the_ledger_claims_only_what_was_observed():
    """Each entry in each family it names, on each release of its range that the last `nox -s history` judged."""
    stored = claims.read_observed()
    assert stored.releases[0] == FIRST_RELEASE
    assert MODEL_RELEASE in stored.releases
    missing = claims.unobserved(load_ledger(DEFAULT_LEDGER), stored)
    assert not missing, "; ".join(missing) + "; run nox -s history -- --write --entry ID, or narrow the entry"


def test_the_page_tells_what_is_stored():
    """It is written together with the file."""
    text = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    assert text == claims_page.page(load_ledger(DEFAULT_LEDGER), claims.read_observed())


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    """It says what writes it."""
    with pytest.raises(UserError, match="nox -s history"):
        claims.read_observed(tmp_path / "claims.json")


def test_damage_is_aimed_at_what_the_entry_names():
    """One tensor of many."""
    known = load_ledger(DEFAULT_LEDGER)
    entry, witness = known.entry("npz-blocks-left-over"), known.witnesses["npz-blocks-left-over"].case
    first = next(candidates(entry, FAMILIES["google_npz_stem"], witness))
    assert (first.family, first.damage) == ("google_npz_stem", "deeper")


@pytest.mark.parametrize(("family", "shows"), [("openai_clip", True), ("deit", False)])
def test_a_search_finds_a_case_where_there_is_one(family, shows):
    """On a real release: CLIP's projection has no bias, DeiT's head has one."""
    known, name = load_ledger(DEFAULT_LEDGER), "projection-bias-float32-on-cpu"
    entry = msgspec.structs.replace(known.entry(name), families=[family])
    wanted = Wanted(entry, family, known.witnesses[name].case, search=True)
    found = search.look(search.Request(f"timm=={MODEL_RELEASE}", [wanted], 5))
    assert bool(found) is shows
    for seen in found:
        assert (seen.entry, seen.family, seen.case.family, seen.regime) == (name, family, family, "any")
        assert seen.failure.endswith(":head.bias")


def test_a_case_that_showed_it_elsewhere_is_tried_without_a_search():
    """It shows the same failure again."""
    known, name = load_ledger(DEFAULT_LEDGER), "projection-bias-float32-on-cpu"
    witness = known.witnesses[name].case
    wanted = Wanted(known.entry(name), witness.family, witness, [witness])
    found = search.look(search.Request(f"timm=={MODEL_RELEASE}", [wanted], 0))
    assert [seen.case for seen in found]
    assert not search.look(search.Request(f"timm=={MODEL_RELEASE}", [msgspec.structs.replace(wanted, cases=[])], 5))
