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
from packaging.version import Version

import timm_conformance
from tests.documents import PAGES, ROOT, WRITTEN, compared_families, examples, files, other_families
from timm_conformance import vit_conformance
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.cli import docs
from timm_conformance.families import FAMILIES
from timm_conformance.history.fixes import NOTE
from timm_conformance.invariants import INVARIANTS
from timm_conformance.invariants.registry import invariant
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
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
    *(
        ROOT / name
        for name in ("noxfile.py", "pyproject.toml", "fixtures/ledger.toml", "tests/compat/environments.toml")
    ),
]
_WORDS = {w for p in _CODE for w in re.findall(r"[\w-]+", p.read_text(encoding="utf-8"))}
_WORDS |= {part for word in _WORDS for part in re.findall(r"\w+", word)}
_OTHERS = {"xfail_strict", "repo_type_and_id_from_hf_id"}  # names of other programs


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
    "record.md",
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
def test_no_line_is_a_heading_by_mistake(page):
    """Markdown takes a line that begins with the number of an issue for a heading."""
    assert not re.findall(r"^#+\d.*", PAGES[page], re.M)


def test_the_history_page_is_of_this_code():
    """Its releases cannot be judged here; its first lines can be compared."""
    text = (ROOT / "docs" / "history.md").read_text(encoding="utf-8")
    assert f"\n{NOTE}\n" in text


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


@pytest.mark.parametrize(
    ("page", "fact"),
    [
        ("README.md", "pip install nox && nox -s gate"),
        ("README.md", f"judges `{' '.join(DEFAULT_TARGETS)}`"),
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


def test_the_readme_counts_the_faults_of_the_newest_release():
    """By kind, each cause once: an entry with ``view_of`` counts with the entry that it names. The findings say the same."""
    entries = load_ledger(DEFAULT_LEDGER).entries
    live = [e for e in entries if e.names(Version(MODEL_RELEASE)) and not e.view_of]
    bugs, limitations, faults = (sum(e.kind == kind for e in live) for kind in ("bug", "limitation", "dependency"))
    assert min(bugs, limitations, faults) >= 1
    noun = "fault" if faults == 1 else "faults"
    counts = f"timm {MODEL_RELEASE} has {bugs} known bugs, {limitations} known limitations and {faults} {noun} of a dependency"
    assert f"{counts} in the [ledger](docs/ledger.md)." in " ".join(PAGES["README.md"].split())
    assert f"{counts} in the [ledger](ledger.md)." in PAGES["docs/findings.md"]


def test_every_finding_names_its_script_and_no_page_repeats_one():
    """Each live ledger entry is on the page once, as a finding or under the entry that it is a view of."""
    page = PAGES["docs/findings.md"]
    for entry in load_ledger(DEFAULT_LEDGER).entries:
        live = entry.names(Version(MODEL_RELEASE))
        assert page.count(f"[`{entry.id}`](ledger.md#{entry.id})") == live
        end = f", or `timm-conformance repro {entry.id}`\n"
        if live and not entry.view_of:
            path = entry.script.relative_to(ROOT).as_posix()
            assert page.count(f"- Script: [`{entry.script.name}`](../{path}){end}") == 1
        else:
            assert end not in page
    assert "```" not in page


@pytest.mark.parametrize("page", [name for name in docs.PAGES if name.endswith(".md")])
def test_generated_pages_can_be_rendered_by_any_markdown(page):
    """Links leave docs/ only to scripts; no text becomes HTML or emphasis by mistake, no backslash is shown in code."""
    text = PAGES[f"docs/{page}"]
    assert not re.findall(r"\]\(\.\./(?!fixtures/reproducers/|conformance/probes/)[^)]*\)", text)
    assert "\\|" not in text
    prose = re.sub(r"```.*?```|`[^`\n]*`|<!--.*?-->|</?code>|<https://\S+>", "", text, flags=re.S)
    assert not re.findall(r"<[A-Za-z/!][^>\n]*>", prose)
    assert not re.findall(r"(?<!\w)_\w[^\n]*\w_(?!\w)", prose)  # between such underscores is emphasis


def test_the_readme_shows_a_possible_table():
    """Rows and what is left out are no more than all families; each cell judged counts as many invariants, no more than all.

    The table is the output of a run on a day: a new family or invariant does not make it wrong.
    """
    rows = re.findall(r"^│ (\w+) +│(.*)│$", PAGES["README.md"], re.M)
    more = int(re.search(r"^  \.\.\. (\d+) more$", PAGES["README.md"], re.M)[1])
    assert {name for name, _ in rows} <= set(FAMILIES)
    assert len(dict(rows)) + more <= len(FAMILIES)  # the first run shows one of them again
    counted = set()
    for name, cells in rows:
        for cell in cells.split("│"):
            since = re.search(r"known since ([\d.]+)", cell)
            if since:
                assert since[1] == FAMILIES[name].known_since
            else:
                counted.add(sum(map(int, re.findall(r"(\d+) (?:known|pass|n/a)", cell))))
    assert len(counted) == 1
    assert max(counted) <= len(INVARIANTS)


def test_the_arguments_of_the_plugin_are_documented_with_their_defaults():
    """The table of docs/use-in-your-repository.md is the signature."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", PAGES["docs/use-in-your-repository.md"], re.M)
    told = {name: default.strip("` ") for names, default in rows for name in re.findall(r"\w+", names)}
    parameters = list(inspect.signature(vit_conformance).parameters.values())[1:]
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

_HOW_TO = "docs/how-to-add.md"


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with the files that docs/how-to-add.md writes; what is there already is added to.

    Returns a function that runs a command line of the page in it.
    """
    root = tmp_path_factory.mktemp("extended")
    for name in ("conformance", "reference", "fixtures", "tests", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (path for path in ROOT.iterdir() if path.is_file()):
        shutil.copy(path, root)
    for path, text in files(PAGES[_HOW_TO]):
        with open(root / path, "a", encoding="utf-8") as file:
            file.write("\n\n" + text if file.tell() else text)
    row = re.search(r"row to `FAKES` in `tests/test_fakes.py`: `(Fake\(.*?\))`", PAGES[_HOW_TO])[1]
    fakes = root / "tests" / "test_fakes.py"
    fakes.write_text(
        fakes.read_text(encoding="utf-8").replace("FAKES = (\n", f"FAKES = (\n    {row},\n", 1), encoding="utf-8"
    )
    # The package, of links, as an editable install maps it.
    package = root / "site" / "timm_conformance"
    package.mkdir(parents=True)
    for path in (*(root / "conformance").iterdir(), root / "reference"):
        (package / path.name).symlink_to(path)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        """Run a module of the copy."""
        search = os.pathsep.join([str(root / "site"), str(root)])
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=root,
            env={**os.environ, "PYTHONPATH": search},
            capture_output=True,
            text=True,
        )

    run.root = root
    return run


@pytest.mark.parametrize(
    ("command", "code", "shown"),
    [
        ("run reference --family timm_registers", 0, "timm_registers"),
        ("run reference --family acme_vit", 0, "acme_vit"),
        (
            "run loader:tests.fakes:returns_parameters --family openai_clip --invariant detached",
            1,
            "detached:openai_clip:requires-grad:",
        ),
        ("run reference --family openai_clip --invariant detached", 0, "1 pass"),
    ],
)
def test_the_examples_of_how_to_add_work(extended, command, code, shown):
    """The invariants hold for the reference on each new family; the new one fails on its fake and holds for the reference."""
    assert f"$ timm-conformance {command}\n" in PAGES[_HOW_TO]
    done = extended("timm_conformance.cli", *shlex.split(command), "--profile", "smoke", "--jobs", "1")
    assert done.returncode == code, done.stdout + done.stderr
    assert shown in done.stdout


def test_the_last_steps_of_how_to_add_complete_a_format(extended):
    """Its vectors are written and are those generated, the pages name it, and what lists families finds nothing missing."""
    page = PAGES[_HOW_TO]
    assert "$ timm-conformance vectors --family acme_vit\n" in page
    assert "$ python -m timm_conformance.cli.docs\n" in page
    for name in ("acme_vit", "timm_registers"):
        done = extended("timm_conformance.cli", "vectors", "--family", name)
        assert done.returncode == 0, done.stderr
    checked = extended("timm_conformance.cli", "vectors", "--check", "--family", "acme_vit")
    assert (checked.returncode, "as generated" in checked.stdout) == (0, True), checked.stdout
    upstream = extended.root / "docs" / "upstream.md"
    upstream.write_text(upstream.read_text(encoding="utf-8") + "\n| `acme_vit`, `timm_registers` | nothing |\n")
    assert extended("timm_conformance.cli.docs").returncode == 0
    listed = extended("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *_LISTS)
    assert listed.returncode == 0, listed.stdout + listed.stderr


# What asks for something of every family, format or invariant, besides judging it.
_LISTS = (
    "tests/test_docs.py::test_generated_pages_are_what_the_code_says",
    "tests/test_docs.py::test_every_family_is_compared_with_its_upstream_or_said_not_to_be",
    "tests/test_docs.py::test_facts_are_true",
    "tests/test_docs.py::test_the_readme_shows_a_possible_table",
    "tests/test_fakes.py::test_every_invariant_has_a_fake",
    "tests/test_fakes.py::test_every_fake_is_in_the_table",
    "tests/test_reference.py::test_every_family_has_a_format_and_every_format_a_family",
    "tests/test_repository.py::test_every_family_has_a_format_and_real_models",
    "tests/test_vectors.py::test_every_family_has_vectors_and_the_index_counts_them",
)
