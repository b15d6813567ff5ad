"""New failures are the same causes in every report: on the terminal, in summary.md, report.html and JUnit XML."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

from msgspec.structs import replace
from rich.console import Console

from tests.report_results import CASE, NEW, OLD, failure, header, verdict
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.report import html, junit, markdown, publish, terminal
from timm_conformance.results import records
from timm_conformance.results.causes import by_cause, counted
from timm_conformance.results.merging import merge_results
from timm_conformance.results.records import Cause, Explanation, Failure, Footer, Results

BOOK = load_ledger(DEFAULT_LEDGER)
SCRIPT = "import timm\nraise SystemExit(1)\n"


def told(name: str, tensor: str, diagnosis: str = "") -> Failure:
    """A failure of some tensor."""
    explanation = Explanation("It holds.", "a file", "a call", [], diagnosis)
    return replace(failure("wrong"), fingerprint=name, tensor=tensor, explanation=explanation)


def results() -> Results:
    """Six failures on two releases: two that share a script, three by one diagnosis, and one alone."""
    shared = [told("a:f:value:x[plain]", "x"), told("b:f:value:x[plain]", "x")]
    diagnosed = [told("c:f:value:y[plain]", "y", "got = zeros"), told("d:f:value:y[plain]", "y", "got = zeros")]
    alone = told("e:f:value:z[plain]", "z")
    return Results(
        [
            header(NEW),
            header(OLD),
            verdict(NEW, "deit", "strict-load", "fail", failures=[*shared, diagnosed[0]]),
            verdict(NEW, "deit", "repeatable", "fail", failures=[diagnosed[1], alone]),
            verdict(OLD, "deit", "repeatable", "fail", failures=[diagnosed[1]]),
            Cause(NEW, [shared[1].fingerprint, shared[0].fingerprint], SCRIPT),
            Footer(1.0, 1),
        ]
    )


def test_causes_are_groups_that_share_a_script_or_a_diagnosis() -> None:
    groups = by_cause(results())
    assert [(g.shown.failure.fingerprint[0], [o[0] for o in g.others], g.targets) for g in groups] == [
        ("b", ["a"], [NEW]),
        ("c", ["d"], [NEW, OLD]),
        ("e", [], [NEW]),
    ]
    assert counted(results()) == "6 failures, 3 causes"


def test_a_script_of_any_of_its_failures_is_the_causes() -> None:
    """No script may have been found for the failure by which it is told."""
    found = [told(f"{n}:f:value:y[plain]", "y", "got = zeros") for n in "ab"]
    causes = [Cause(NEW, [found[0].fingerprint]), Cause(NEW, [found[1].fingerprint], SCRIPT)]
    (group,) = by_cause(Results([verdict(NEW, "deit", "repeatable", "fail", failures=found), *causes]))
    assert (group.script, group.others) == (SCRIPT, [found[1].fingerprint])


def test_every_report_tells_the_same_causes(tmp_path: Path) -> None:
    found, output = results(), io.StringIO()
    terminal.print_failures(Console(file=output, width=200), found, {}, {})
    page = html.render(found, BOOK)
    summary = markdown.summary(found, BOOK, [], 1)
    junit.write(found, tmp_path / "junit.xml")
    for text in (output.getvalue(), summary, page):
        assert "6 failures, 3 causes" in text
    assert "6 new failures, 3 causes" in page
    assert len(re.findall(r"^✗", output.getvalue(), re.M)) == 3
    assert len(re.findall(r"^### ", summary, re.M)) == 3
    assert page.count('<article id="failure-') == 3
    failures = list(ElementTree.parse(tmp_path / "junit.xml").iter("failure"))
    assert len(failures) == 6
    assert {(f.text or "").splitlines()[-1] for f in failures} == {
        "cause: 1 of 3, b:f:value:x[plain]",
        "cause: 2 of 3, c:f:value:y[plain]",
        "cause: 3 of 3, e:f:value:z[plain]",
    }


def test_scripts_and_witnesses_go_with_the_results(tmp_path: Path) -> None:
    """They are written again from the results alone, and name the failure that tells the cause."""
    path = tmp_path / "results.ndjson"
    results().write(path)
    again = merge_results([Results(records.read(path))])
    scripts = publish.store_scripts(again, tmp_path)
    (script,) = set(scripts.values())
    assert script.read_text(encoding="utf-8") == SCRIPT
    assert script.relative_to(tmp_path).as_posix() == "repro/timm__1.0.31/b_f_value_x_plain_.py"
    assert len(publish.store_witnesses(again, tmp_path)) == 6
    assert "raise SystemExit(1)" in html.render(again, BOOK)


def test_a_cause_goes_when_its_failures_do() -> None:
    """A later run of the family may fail otherwise."""
    later = Results([header(NEW, families=["deit"]), verdict(NEW, "deit", "strict-load", "pass"), Footer(1.0)])
    merged = merge_results([results(), later])
    assert not merged.causes
    assert counted(merged) == "3 failures, 2 causes"


def test_the_case_is_python_to_paste() -> None:
    space: dict[str, object] = {}
    exec("from timm_conformance.cases.case import *", space)
    assert eval(repr(CASE), space) == CASE
