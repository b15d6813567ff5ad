"""Results as values: they survive a round trip, a crash and a later version."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from timm_conformance.drawing.strategies import STRATA, cases
from timm_conformance.results import records as results
from timm_conformance.results.records import Failure, Footer, Header, Results, Verdict, Witness

_names = st.sampled_from(["a", "b", "timm==0.9.16"])
_counts = st.dictionaries(st.sampled_from(["pass", "fail", "known", "blocked"]), st.integers(0, 9), max_size=3)


@st.composite
def verdicts(draw):
    """Verdicts with and without failures."""
    from timm_conformance.families import FAMILIES

    case = cases(FAMILIES["openai_clip"], STRATA[0])
    failure = st.builds(Failure, _names, _names, _names, st.text(max_size=9), case, st.integers(1, 9))
    name = draw(st.sampled_from(["pass", "fail", "known", "not-applicable", "error"]))
    failures = draw(st.lists(failure, max_size=2)) if name == "fail" else []
    return Verdict(draw(_names), draw(_names), draw(_names), name, draw(_counts), failures=failures)


records = st.one_of(
    verdicts(),
    st.builds(Witness, _names, _names, st.sampled_from(["fails", "fixed", "error"]), st.booleans()),
    st.builds(Footer, st.floats(0, 100)),
)


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(records, max_size=5))
def test_records_survive_a_round_trip(items):
    """What is written is what is read."""
    lines = b"".join(results.encode(r) for r in items).splitlines()
    assert list(results.decode(lines)) == items


def test_a_line_cut_off_costs_only_itself(tmp_path):
    """A crash in the middle of a line, and lines of a type from the future, are skipped."""
    whole = results.encode(Witness("t", "w", "fails", True))
    path = tmp_path / "r.ndjson"
    path.write_bytes(whole + b'{"type":"hologram"}\n' + whole + whole[:20])
    assert len(results.read(path)) == 2


def test_signs_of_life_are_not_kept(tmp_path):
    """Progress is for the terminal."""
    header = Header("t", "1", "3", "2", "p", "cpu", [], "gate", 0, [], {})
    Results([header, results.Progress("t", "f", 3), Footer(1.0)]).write(tmp_path / "r")
    assert results.read(tmp_path / "r") == [header, Footer(1.0)]


def test_what_was_met_is_told_over_all_families():
    """Judged cases by regime, and what an invariant is excused from."""
    cells = [Verdict("t", f, "i", "known", regimes={"any": 5, "native": 4}, excused=[f]) for f in "ab"]
    assert Results(cells).met("t", "i") == ({"any": 10, "native": 8}, {"a", "b"})
