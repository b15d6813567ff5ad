"""Documentation that cannot go stale: what the pages say of commands, names, defaults and files is what the code says."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import timm_conformance
from tests.documents import PAGES, ROOT, WRITTEN, compared_families, examples, files, other_families
from timm_conformance import plugin
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.cli import docs
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.invariants.registry import invariant
from timm_conformance.report.terminal import MARKS
from timm_conformance.results.changes import THRESHOLD
from timm_conformance.results.records import SCHEMA
from timm_conformance.targets.releases import FIRST_RELEASE
from timm_conformance.targets.target import DEFAULT_TARGETS, MODEL_RELEASE
from timm_conformance.trials.deviations import DIRECTIONS

OURS = [name for name in WRITTEN if name != "docs/upstream.md"]  # which is about other people's code

by_page = pytest.mark.parametrize("page", PAGES)
by_written_page = pytest.mark.parametrize("page", WRITTEN)


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_pages_are_what_the_code_says(name):
    """docs/ is written by `python -m timm_conformance.cli.docs`."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == docs.PAGES[name](), (
        "run python -m timm_conformance.cli.docs"
    )


def test_every_family_is_compared_with_its_upstream_or_said_not_to_be():
    """docs/upstream.md: by a session, by hand, or what stands in."""
    assert compared_families() | other_families() == FAMILIES.keys()


# -- names and files ---------------------------------------------------------------------------------------------------

_CODE = [
    *(p for folder in ("conformance", "reference") for p in (ROOT / folder).rglob("*.py")),
    *ROOT.glob("tests/fakes*.py"),
    *(ROOT / name for name in ("noxfile.py", "pyproject.toml", "fixtures/ledger.toml")),
]
_WORDS = {w for p in _CODE for w in re.findall(r"[\w-]+", p.read_text(encoding="utf-8"))}
_WORDS |= {part for word in _WORDS for part in re.findall(r"\w+", word)}
_OTHERS = {"xfail_strict"}  # names of other programs


@pytest.mark.parametrize("page", OURS)
def test_every_name_in_code_type_is_one_of_the_code(page):
    """Families, invariants, ledger entries, regimes, functions, fields: whatever stands between backticks as one word."""
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.S)
    names = set(re.findall(r"`([a-z][a-z0-9]*(?:[_-][a-z0-9]+)*)`", prose)) - _OTHERS - examples(PAGES[page])
    unknown = {name for name in names if not {name, name.replace("-", "_")} & _WORDS}
    assert not unknown


def test_a_name_that_is_gone_is_found():
    """Else the test above could not fail."""
    assert not {"native-identiti", "openai_klip"} & _WORDS
    assert {"native_identity", "openai_clip", "clip-early-return"} <= _WORDS


_NOT_OURS = {
    "vision_transformer.py",
    "summary.md",
    "bench.md",
    "mutants.md",
    "results/cuda/record.md",
    "tests/test_conformance.py",
}  # timm's, a run's, a user's
_BASENAMES = {p.name for folder in ("conformance", "reference", "tests") for p in (ROOT / folder).rglob("*.py")}


@pytest.mark.parametrize("page", OURS)
def test_every_file_mentioned_exists(page):
    """Paths from the root or from ``conformance/``; a bare name of some module of the project."""
    own = {path for path, _ in files(PAGES[page])}
    mentioned = re.findall(r"`((?:[a-z_]+/)*[a-z_][a-z0-9_-]*\.(?:py|toml|md|yml))(?::[^`]*)?`", PAGES[page])
    for path in set(mentioned) - own - _NOT_OURS:
        assert path in _BASENAMES or any((ROOT / base / path).exists() for base in ("", "conformance")), path


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@by_page
def test_links_lead_somewhere(page):
    """To files that exist, and headings that they have."""
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor in map(_slug, headings), link


def test_every_page_is_linked_from_the_readme():
    """And so are the schema and the picture."""
    for path in (ROOT / "docs").rglob("*.*"):
        assert f"({path.relative_to(ROOT).as_posix()})" in PAGES["README.md"], path


# -- facts -------------------------------------------------------------------------------------------------------------

_LIVE = re.search(r"^(\d+) live entries", PAGES["docs/findings.md"], re.M)[1]


@pytest.mark.parametrize(
    ("page", "fact"),
    [
        ("README.md", "pip install nox && nox -s gate"),
        ("README.md", f"judges `{' '.join(DEFAULT_TARGETS)}`"),
        ("README.md", f"{len(FAMILIES)} families"),
        ("README.md", f"{len(INVARIANTS)} promises"),
        ("README.md", f"{MODEL_RELEASE} [still has {_LIVE}]"),
        ("README.md", f"every release from {FIRST_RELEASE} on"),
        ("docs/release-validation.md", f"every release from {FIRST_RELEASE} on"),
        ("docs/release-validation.md", f"an estimate above {THRESHOLD:g} is a change"),
        (
            "docs/release-validation.md",
            f"projected on {('no', 'one', 'two', 'three', 'four')[DIRECTIONS]} random directions",
        ),
        ("docs/results.schema.json", f'"default": {SCHEMA}\n'),
        *(("docs/use-in-your-repository.md", f"`{name}`") for name in PROFILES),
        *(("docs/use-in-your-repository.md", f"import {name}") for name in timm_conformance.__all__),
    ],
)
def test_facts_are_true(page, fact):
    """What a page says in words, made of what the code has."""
    assert fact in (ROOT / page).read_text(encoding="utf-8")


def test_the_readme_shows_a_possible_table():
    """Rows and what is left out are all families; in each cell judged, every invariant is counted."""
    rows = re.findall(r"^│ (\w+) +│(.*)│$", PAGES["README.md"], re.M)
    more = int(re.search(r"^  \.\.\. (\d+) more$", PAGES["README.md"], re.M)[1])
    assert {name for name, _ in rows} <= set(FAMILIES)
    assert len(rows) + more == len(FAMILIES)
    for name, cells in rows:
        for cell in cells.split("│"):
            since = re.search(r"first release: ([\d.]+)", cell)
            if since:
                assert since[1] == FAMILIES[name].first_release
            else:
                assert sum(map(int, re.findall(r"(\d+) (?:known|pass|n/a)", cell))) == len(INVARIANTS)


def test_the_arguments_of_the_plugin_are_documented_with_their_defaults():
    """The table of docs/use-in-your-repository.md is the signature."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", PAGES["docs/use-in-your-repository.md"], re.M)
    told = {name: default.strip("` ") for names, default in rows for name in re.findall(r"\w+", names)}
    parameters = list(inspect.signature(plugin.vit_conformance).parameters.values())[1:]
    words = {"all": None, "none": None, "see below": None}
    assert {n: words[d] if d in words else ast.literal_eval(d) for n, d in told.items()} == {
        p.name: p.default for p in parameters
    }


def test_verdicts_are_explained_with_their_marks():
    """All of them, as the reports show them."""
    rows = re.findall(r"^\| ([a-z-]+) \| (\S) \|", PAGES["docs/how-to-read-a-failure.md"], re.M)
    assert dict(rows) == {name: mark for name, (mark, _, _) in MARKS.items()}


@by_written_page
def test_python_is_python(page):
    """Every block compiles."""
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.S):
        ast.parse(block)


def test_the_reasons_documented_are_those_given():
    """An ``applies`` that tells its reasons in another way than a ``return`` would not be read."""
    silent = {i.name for i in INVARIANTS.values() if not docs.reasons(i.applies)}
    default = inspect.signature(invariant).parameters["applies"].default
    assert silent == {i.name for i in INVARIANTS.values() if i.applies is default}


# -- the worked examples -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with the files that docs/how-to-add.md writes; what is there already is added to."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("conformance", "reference", "fixtures", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in files(PAGES["docs/how-to-add.md"]):
        with open(root / path, "a", encoding="utf-8") as file:
            file.write("\n\n" + text if file.tell() else text)
    return root


@pytest.mark.parametrize(
    ("command", "code", "shown"),
    [
        ("run reference --family timm_registers", 0, "timm_registers"),
        (
            "run loader:tests.fakes:asks_for_gradients --family openai_clip --invariant detached",
            1,
            "detached:openai_clip:requires-grad:",
        ),
        ("run reference --family openai_clip --invariant detached", 0, "1 pass"),
    ],
)
def test_the_examples_of_how_to_add_work(extended, command, code, shown):
    """The family is kept by the reference, the invariant breaks on its fake and nowhere else."""
    words = [*shlex.split(command), "--profile", "smoke", "--jobs", "1"]
    if "reference" not in command or "detached" not in command:
        assert f"$ timm-conformance {command}\n" in PAGES["docs/how-to-add.md"]
    done = subprocess.run(
        [sys.executable, "-m", "timm_conformance.cli.main", *words],
        cwd=extended,
        env={**os.environ, "PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert shown in done.stdout
