"""`nox -s compat`: what it compares, what a probe explains, and what its page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.compat import environments, record
from tests.compat.__main__ import main
from tests.compat.comparison import differences
from timm_conformance.ledger.entries import Entry, Ledger
from timm_conformance.probes.registry import ProbeAnswer
from timm_conformance.results.records import Header, Results, Verdict, Witness

ROOT = Path(__file__).resolve().parent.parent
PROJECT = environments.tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MATRIX = environments.load()
PROBE = "column"
LEDGER = Ledger(
    [
        Entry("column", "dependency", "", ["*"], ["*:*:*"], ["any"], "", probe=PROBE),
        Entry("early", "bug", "", ["*"], ["*:*:*"], ["any"], "", releases=">=0.9"),
    ]
)
TARGET = "timm==1.0.31"


def results(answer: str, known: dict[str, int], verdict: str = "known", replay: str = "fails", expected: bool = True):
    """Results with one verdict and one witness, in an environment in which the probe gives an answer."""
    told = ProbeAnswer(PROBE, "torch", "1", "cpu", answer, "", "")
    header = Header(TARGET, "1.0.31", "3", "1", "p", "cpu", [], "smoke", 0, [], {}, probes=[told])
    cell = Verdict(TARGET, "mae", "strict-load", verdict, known=known)
    return Results([header, cell, Witness(TARGET, "column", replay, expected)])


BASELINE = results("wrong", {"column": 3, "early": 1})


@pytest.mark.parametrize(
    ("other", "explained"),
    [
        (results("wrong", {"column": 5, "early": 9}), []),
        (results("right", {"early": 1}), [True]),
        (results("right", {"early": 1}, replay="not-applicable"), [True, True]),
        (results("right", {}, "pass"), [False]),  # the bug of timm is gone too
        (results("right", {"early": 1}, "fail"), [False]),
        (results("wrong", {"early": 1}), [False]),
        (results("wrong", {"column": 3, "early": 1}, replay="fixed", expected=False), [False]),
        (results("wrong", {"column": 3, "early": 1}, expected=False), [False]),
    ],
    ids=["counts", "probe", "witness", "other bug", "failure", "no probe", "witness fixed", "witness otherwise"],
)
def test_only_a_probe_explains_a_difference(other, explained):
    """Of the entries that carry it."""
    assert [bool(d.probes) for d in differences(BASELINE, other, LEDGER)] == explained


def test_a_verdict_is_a_pass_where_only_the_library_was_at_fault():
    """Both ways round."""
    faulty, right = results("wrong", {"column": 3}), results("right", {}, "pass")
    assert [d.probes for d in differences(faulty, right, LEDGER)] == [(PROBE,)]
    assert [d.probes for d in differences(right, faulty, LEDGER)] == [(PROBE,)]


def test_what_one_environment_lacks_is_a_difference():
    """A verdict and a witness."""
    found = list(differences(BASELINE, Results(BASELINE.headers), LEDGER))
    assert [(d.text.rpartition(", here ")[2], d.probes) for d in found] == [("absent", ()), ("absent", ())]


def write(folder: Path, name: str, found: Results, **told: object) -> None:
    """An environment in which something ran."""
    versions = dict.fromkeys(("torch", "torchvision", "numpy", "hypothesis", "pytest"), "1")
    versions["hypothesis"] = str(told.pop("hypothesis", "1"))
    told = {"shim": "torchvision-operators not needed", "counts": {"passed": 7, "failed": 0, "skipped": 1}} | told
    record.write(record.Record(name, "2020-02-02", "3.9.1", versions, **told), folder / name)
    found.write(folder / name / "results.ndjson")


def test_the_page_says_what_ran_what_did_not_and_what_differs(tmp_path, capsys):
    """Its exit code is 1 where something differs that nothing explains."""
    first, second, third, *_ = (e.name for e in MATRIX.environment)
    write(tmp_path, first, BASELINE)
    write(tmp_path, second, BASELINE)
    (tmp_path / third).mkdir()
    (tmp_path / third / "missing.txt").write_text("no such version\n")
    assert main(tmp_path, tmp_path / "page.md") == 0
    said = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{second}` \| .*\| 3\.9\.1 \|.*2020-02-02 \|$", said, re.M)
    assert re.search(rf"^\| `{second}` \| 1 known \| 1 of 1 \| 7 passed, 1 skipped \| equal \|$", said, re.M)
    assert re.search(rf"^- `{third}` .*: cannot be installed: no such version$", said, re.M)
    assert len(re.findall(r"was not asked for|there is no python", said)) == len(MATRIX.environment) - 3
    assert f"{third}: not run, cannot be installed: no such version" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "told", "says"),
    [
        (results("wrong", {"early": 1}, "fail"), {}, "mae strict-load: known column early, here fail early"),
        (BASELINE, {"run": 3}, "timm-conformance run ended with exit code 3"),
        (BASELINE, {"tests": 1}, "pytest ended with exit code 1"),
        (BASELINE, {"shim": "torchvision-operators in use"}, "compiled half should be loaded"),
    ],
    ids=["verdict", "run", "tests", "shim"],
)
def test_what_nothing_explains_ends_with_1(tmp_path, capsys, found, told, says):
    """And stands in the page and in the terminal."""
    first, second = (e.name for e in MATRIX.environment[:2])
    write(tmp_path, first, BASELINE)
    write(tmp_path, second, found, **told)
    assert main(tmp_path, tmp_path / "page.md") == 1
    assert says in capsys.readouterr().out
    assert says in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_another_hypothesis_is_compared_on_the_same_cases(tmp_path):
    """Its own draws need only end as the ledger says."""
    first, second = (e.name for e in MATRIX.environment[:2])
    write(tmp_path, first, BASELINE)
    write(tmp_path, second, results("wrong", {}, "pass"), hypothesis="2")
    assert main(tmp_path, tmp_path / "page.md") == 1
    (tmp_path / second / record.SAME_CASES).mkdir()
    BASELINE.write(tmp_path / second / record.SAME_CASES / "results.ndjson")
    assert main(tmp_path, tmp_path / "page.md") == 0


def test_without_a_baseline_there_is_nothing_to_compare(tmp_path, capsys):
    """One line, and no page."""
    assert main(tmp_path, tmp_path / "page.md") == 1
    assert "nothing to compare with" in capsys.readouterr().out
    assert not (tmp_path / "page.md").exists()


def test_tests_are_counted(tmp_path):
    """As pytest's JUnit XML counts them."""
    junit = tmp_path / "tests.xml"
    assert record.counts(junit) == {}
    junit.write_text('<testsuites><testsuite errors="1" failures="2" skipped="3" tests="10"></testsuite></testsuites>')
    assert record.counts(junit) == {"passed": 4, "failed": 3, "skipped": 3}


def test_every_lower_bound_is_the_version_of_an_environment():
    """pyproject.toml claims what was seen: the oldest Python, and the oldest version of each dependency."""
    oldest = next(e for e in MATRIX.environment if e.name == "oldest")
    pinned = {r.name.lower(): next(iter(r.specifier)).version for r in map(Requirement, oldest.packages)}
    for requirement in map(Requirement, PROJECT["dependencies"]):
        bounds = [s.version for s in requirement.specifier if s.operator == ">="]
        if requirement.marker is None or requirement.marker.evaluate({"python_version": oldest.python}):
            assert SpecifierSet(f"=={bounds[0]}").contains(pinned[requirement.name.lower()]), requirement.name


def test_every_python_of_the_classifiers_is_that_of_an_environment():
    """And the oldest is the one that the project requires."""
    classified = {c.rpartition(" :: ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert classified == {e.python for e in MATRIX.environment}
    assert PROJECT["requires-python"] == f">={min(classified, key=lambda v: int(v.partition('.')[2]))}"


def test_the_core_of_the_tests_exists():
    """Each file, and each test in it that is named."""
    for name in MATRIX.core:
        path, _, test = name.partition("::")
        assert (ROOT / path).is_file(), name
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), name
