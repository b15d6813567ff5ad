"""report.html says what the results say, to a reader with and without JavaScript, and lets nothing in or out."""

from __future__ import annotations

import json
import subprocess
from html.parser import HTMLParser

import pytest

from tests.preloaded import PYTHON
from timm_conformance.cases.fixtures import FIXTURES
from timm_conformance.ledger.entries import DEFAULT_LEDGER, Ledger, load_ledger
from timm_conformance.report import plot
from timm_conformance.report.grid import OUTCOMES
from timm_conformance.report.html import render
from timm_conformance.results.records import Footer, LoadedCase, Results, Witness

from .report_results import CASE, HOSTILE, LOST, NEW, OLD, UNKNOWN, failure, header, many, mixed, verdict

BOOK = load_ledger(DEFAULT_LEDGER)
VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """Elements with their attributes, what they contain as text, and whether every one that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, list[str]]] = []
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        words: list[str] = []
        self.found.append((tag, dict(attrs), words))
        if tag not in VOID:
            self.open.append((tag, words))

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag
        if tag in {"td", "th", "dt", "dd", "li"}:
            self.handle_data(" ")

    def handle_data(self, data):
        for _, words in self.open:
            words.append(data)

    def all(self, tag: str, **wanted: str) -> list[str]:
        """The texts of the elements with these attributes, white space folded."""
        wanted = {k.rstrip("_"): v for k, v in wanted.items()}
        return [" ".join("".join(w).split()) for t, a, w in self.found if t == tag and wanted.items() <= a.items()]

    def labels(self) -> list[str]:
        """The accessible names of the cells."""
        return [a["aria-label"] for t, a, _ in self.found if t == "button" and "aria-label" in a]

    def data(self) -> dict:
        """What the script reads."""
        return json.loads("".join(next(w for t, a, w in self.found if a.get("id") == "data")))


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(mixed(), BOOK, ["timm==1.0.31: linear met no case of regime native"]))


def _told(page: Page) -> set[tuple]:
    """The verdicts in the data, as the script would read them."""
    data, found = page.data(), set()
    for index, rows in enumerate(data["cells"]):
        family, target = data["families"][index // len(data["targets"])], data["targets"][index % len(data["targets"])]
        for row in rows:
            invariant, name, cases, worst, reason, known, failures = data["rows"][row]
            counts = tuple(sorted((o, n) for o, n in zip(OUTCOMES, cases) if n))
            entries = tuple(sorted((data["entries"][int(entry)][0], n) for entry, n in known.items()))
            prints = tuple(data["failures"][f][0] for f in failures)
            name = data["verdicts"][name][0]
            found.add(
                (
                    target,
                    family,
                    data["invariants"][invariant],
                    name,
                    counts,
                    worst,
                    data["reasons"][reason],
                    entries,
                    prints,
                )
            )
    return found


@pytest.mark.parametrize("results", [mixed(), many(5, 7, 11)])
def test_every_verdict_is_in_the_page(results):
    """None is lost, none is made up, none is changed but for the digits of its worst error."""
    want = {
        (
            v.target,
            v.family,
            v.invariant,
            v.verdict,
            tuple(sorted(v.cases.items())),
            None if v.worst is None else float(f"{v.worst:.3g}"),
            v.reason,
            tuple(sorted(v.known.items())),
            tuple(f.fingerprint for f in v.failures),
        )
        for v in results.verdicts
    }
    assert len(want) == len(results.verdicts)
    assert _told(Page(render(results, BOOK))) == want


def test_the_cells_are_named_in_words(page):
    """A cell says its family, target, counts, what changed and what a release does not know."""
    assert page.labels() == [
        f"openai_clip, {LOST}: error, cannot import: {HOSTILE}",
        f"openai_clip, {OLD}: 1 known, 1 pass",
        f"openai_clip, {NEW}: 1 fail, 1 pass; values changed since 0.9.16",
        "openai_clip, loader:mine:convert: 1 fixed",
        f"radio, {LOST}: error, cannot import: {HOSTILE}",
        f"radio, {OLD}: not applicable, {UNKNOWN}",
        f"radio, {NEW}: 1 pass, 1 not applicable",
        "radio, loader:mine:convert: 1 error",
    ]


def test_releases_are_in_order_of_version(page):
    """Whichever worker was first."""
    assert page.data()["targets"] == [LOST, OLD, NEW, "loader:mine:convert"]


def test_everything_but_opened_cells_is_text(page):
    """Failures, known bugs, surprises, errors, gaps, changes and the denominator need no script."""
    (text,) = page.all("main")
    for told in (
        failure().fingerprint,
        HOSTILE,
        "1 failure, 1 cause. The ledger explains none of them.",
        "should It loads. file a file of CLIP call load(file)",
        "expected x[0:2] of 4: 1 <b> got x[0:2] of 4: 2 <b>",
        "diagnosis got = expected with <i> exchanged",
        "docs/invariants.md#strict-load",
        "failing cases 3; this is the smallest that was found",
        "import timm # </pre><script>",
        "timm-conformance replay witnesses/timm__1.0.31/strict-load_openai_clip_size-mismatch",
        BOOK.entry("clip-early-return").title,
        "fails on 0.9.16: the model has (8, 3, 3, 3) (12.5 times its bound)",
        BOOK.witnesses["clip-early-return"].case.describe(),
        "dinov2-early-return fails outside its range: again",
        "no such module (1 verdict)",
        "linear met no case of regime native",
        "4 of 9 71.5 pos_embed",
    ):
        assert " ".join(told.split()) in text
    assert "the script" not in page.all("h1")[0]
    script = (FIXTURES / "reproducers" / "clip-early-return.py").read_text(encoding="utf-8")
    assert page.all("pre", id="script-clip-early-return") == [" ".join(script.split())]
    witness = json.loads(page.all("pre", id="witness-0")[0])
    assert witness["case"] == json.loads(CASE.to_json())
    assert witness["invariant"] == "strict-load"


def test_the_denominator_shows_what_was_not_met(page):
    """A regime without a judged case is a marked nought; judgements are counted by outcome."""
    (text,) = page.all("section", id="denominator")
    assert "target judged fail error known pass blocked not applicable" in text
    assert f"{OLD} 20 – – 4 16 – –" in text
    assert f"{NEW} 22 2 – – 20 8 –" in text
    assert "native – 3 3 0 !" in text
    assert "patch-grow – 0 ! 2 0 !" in text


def test_headers_of_one_target_are_all_shown(page):
    """Merged shards may come from different machines; what all share is said once."""
    (text,) = page.all("section", id="environment")
    assert text.count("loader:mine:convert") == 2
    assert "another machine" in text
    assert "seed 7" in text
    assert text.count("torchvision-operators") == 1


def test_hostile_text_stays_text(page):
    """A message with markup makes no element, in the page or in its data."""
    text = render(mixed(), BOOK)
    assert "<img" not in text
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert page.data()["errors"]["0"] == f"cannot import: {HOSTILE}"


def test_nothing_is_fetched(page):
    """No address but the ledger's links, which a reader may follow."""
    links = {e.link for e in BOOK.entries if e.link}
    for tag, attributes, _ in page.found:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            address = attributes.get(name) or ""
            assert address.startswith("#") or address in {"", "data:,"} or (tag == "a" and address in links), (
                tag,
                address,
            )
    (style,) = page.all("style")
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x"])
def test_a_ledger_link_is_an_address_of_the_web(link):
    """Anything else is not made a link."""
    from msgspec.structs import replace

    known_bugs = Ledger([replace(BOOK.entry("clip-early-return"), link=link)], {})
    assert link not in render(mixed(), known_bugs)


@pytest.mark.parametrize(
    ("records", "headline"),
    [
        ([], "Cut off before its end. So far: nothing was judged"),
        ([Footer(1.0, 0), verdict(NEW, "deit", "linear", "pass")], "Everything is as the ledger says"),
        ([Footer(1.0, 3), verdict(NEW, "deit", "linear", "pass")], "Vacuous: something was not judged"),
        ([Footer(1.0, 2), verdict(NEW, "deit", "linear", "pass")], "Not as the ledger says"),
        ([verdict(NEW, "deit", "linear", "pass")], "Cut off before its end. So far: everything is as the ledger says"),
        ([Footer(1.0, 1), verdict(NEW, "deit", "linear", "fail", failures=[failure()])], "1 new failure, 1 cause"),
        ([Footer(1.0, 1), Witness(NEW, "clip-early-return", "fails", False)], "1 ledger surprise"),
        (
            [Footer(1.0, 2), *(r for r in mixed().records if getattr(r, "target", "") == LOST)],
            "1 target could not be judged",
        ),
    ],
)
def test_the_verdict_is_one_sentence(records, headline):
    """Whatever a run amounts to, and however little of it there is."""
    page = Page(render(Results(records), BOOK))
    assert page.all("h1")[0].split(" ", 1)[1] == headline
    assert len(page.all("main")) == 1


def test_gaps_are_part_of_the_verdict():
    """An invariant that was not checked is no success."""
    results = Results([header(NEW), verdict(NEW, "deit", "linear", "pass"), Footer(1.0, 3)])
    page = Page(render(results, BOOK, ["timm==1.0.31: linear met no case it could judge"]))
    assert page.all("h1")[0].endswith("1 invariant not checked")
    assert page.all("section", id="gaps")


def test_results_without_the_later_records_make_a_page():
    """No loads, no changes, no ledger: their sections are not there, the rest is."""
    page = Page(render(Results([header(NEW), verdict(NEW, "deit", "linear", "known", known={"gone": 4})]), Ledger()))
    ids = {a.get("id") for t, a, _ in page.found if t == "section"}
    assert ids == {"heat", "known", "denominator", "environment"}
    assert page.all("details", id="known-gone")


def test_a_whole_validation_stays_small():
    """38 releases of 54 families under 29 invariants: below 3 MB, and no element for what nobody has opened."""
    results = many()
    text = render(results, BOOK)
    page = Page(text)
    assert len(text.encode()) < 3_000_000
    assert len(page.found) < 15_000
    assert len(page.labels()) == 38 * 54
    assert sum(map(len, page.data()["cells"])) == len(results.verdicts) == 38 * 54 * 29


def test_the_plot_marks_what_is_beyond_the_bound_by_shape():
    """Dots within, crosses beyond, crosses in a row of their own where there is no kernel; words and numbers beside it."""
    cases = [LoadedCase("a", 2.0, 0.5), LoadedCase("b", 2.0, 50.0), LoadedCase("c", 0.5), LoadedCase("kept")]
    (panel,) = plot.panels({"t": cases, "nothing resized": [LoadedCase("kept")]})
    assert (panel["within"].count("h0"), panel["beyond"].count("l6 6"), panel["none"].count("l6 6")) == (1, 1, 1)
    x, y = map(float, panel["within"][1:-2].split())
    assert y > panel["bound"]
    assert float(panel["beyond"][1:].split("l")[0].split()[1]) + 3 < panel["bound"]
    assert x == {text: place for place, text in panel["x_ticks"]}["2"]
    assert panel["words"] == "3 cases: 1 beyond the bound, 1 without a kernel to compare; median error 25 of its bound"
    assert plot.medians({"t": cases}) == [
        (
            "t",
            [
                None,
                {"median": None, "cases": 1, "beyond": 1},
                None,
                {"median": 25.25, "cases": 2, "beyond": 1},
                None,
            ],
        )
    ]


def test_few_of_many_targets_are_drawn():
    """The first, the last and two between."""
    names = [str(i) for i in range(38)]
    assert plot.select(names) == ["0", "12", "25", "37"]
    assert plot.select(names[:3]) == names[:3]


def test_the_page_needs_neither_torch_nor_timm():
    """Reports are written by the command line, which imports none of them."""
    code = (
        "import sys; import timm_conformance.report.html; print(sorted({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
