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
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import click
import pytest
from packaging.specifiers import SpecifierSet

import conformance
from conformance import docs, errors, plugin
from conformance.changes import THRESHOLD
from conformance.cli import main
from conformance.deviations import DIRECTIONS
from conformance.families import FAMILIES
from conformance.invariants import INVARIANTS
from conformance.ledger import DEFAULT_PATH, load
from conformance.profiles import PROFILES
from conformance.releases import FIRST_RELEASE
from conformance.report.terminal import MARKS
from conformance.results import SCHEMA
from conformance.targets import DEFAULT_TARGETS, MODEL_RELEASE, parse_target

ROOT = Path(__file__).resolve().parent.parent
_FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in _FILES}
WRITTEN = {name: text for name, text in PAGES.items() if Path(name).name not in docs.PAGES}
LEDGER = [entry.id for entry in load(DEFAULT_PATH).entries]

OURS = [name for name in WRITTEN if name != "docs/upstream.md"]  # which is about other people's code

by_page = pytest.mark.parametrize("page", PAGES)
by_written_page = pytest.mark.parametrize("page", WRITTEN)


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_pages_are_what_the_code_says(name):
    """docs/ is written by `python -m conformance.docs`."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == docs.PAGES[name](), "run python -m conformance.docs"


# -- commands ----------------------------------------------------------------------------------------------------------


def _lines(text: str, start: str) -> list[str]:
    """What follows ``start`` on a line of a code block, or in code within a line."""
    return [rest.strip() for rest in re.findall(rf"{re.escape(start)} +([^`\n]*)", text)]


def _placeholder(word: str) -> bool:
    """Whether a word stands for others: ``ID``, ``timm==...``, ``FAMILY:INVARIANT``, a file a run would have written."""
    return "..." in word or word.endswith(".json") or bool(re.fullmatch(r"[A-Z:|]+", word))


def _examples(text: str) -> set[str]:
    """Names that the Python of a page defines: its own families and invariants."""
    return {
        name.replace("_", "-") if kind == "def " else name for kind, name in re.findall(r'(def |name=")(\w+)', text)
    }


def _parsed(words: list[str], examples: set[str]) -> click.Context:
    """A command line as click reads it, its names looked up. Raises click's own error, or an AssertionError."""
    with click.Context(main) as context:
        name, command, rest = main.resolve_command(context, words)
    with command.make_context(name, list(rest)) as context:
        given = context.params
    assert {*given.get("family", ()), *given.get("invariant", ())} <= {*FAMILIES, *INVARIANTS, *examples}
    assert given.get("profile", "gate") in PROFILES
    SpecifierSet(given.get("specifier") or "")
    for target in (*given.get("targets", ()), *given.get("names", ())):
        if not _placeholder(target) and not target.startswith("path:") and target not in LEDGER:
            parse_target(target)
    subject = given.get("subject", "")
    if subject and not _placeholder(subject) and subject not in LEDGER:
        family, invariant = subject.split(":")
        assert family in FAMILIES
        assert invariant in INVARIANTS
    return context


def _command_lines(page: str) -> Iterator[list[str]]:
    for line in _lines(PAGES[page], "timm-conformance"):
        yield shlex.split(line, comments=True)
    for line in _lines(PAGES[page], "nox -s"):
        session, _, more = line.partition(" -- ")
        if session in ("gate", "releases"):
            yield ["run", *shlex.split(more)]


@by_written_page
def test_every_command_line_is_one_that_the_program_takes(page):
    """With options, families, invariants, profiles and targets that exist."""
    for words in _command_lines(page):
        if words not in (["--help"], []):
            _parsed(words, _examples(PAGES[page]))


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate",
        "run --no-such-option",
        "run --family opnai_clip",
        "run --profile gat",
        "run 0.9.16",
        "run loader:mine",
        "run --releases 0.9",
        "list family",
        "merge a b",
        "bisect openai_clip:strict-lod",
        "replay clip-early-retur timm==0.9.16",
    ],
)
def test_a_command_line_that_would_not_run_is_found(line):
    """Else the test above could not fail."""
    with pytest.raises((click.ClickException, ValueError, AssertionError, errors.UserError)):
        _parsed(shlex.split(line), set())


def test_there_are_command_lines_to_check():
    """Every command but ``doctor`` is shown at work somewhere."""
    shown = {words[0] for page in WRITTEN for words in _command_lines(page) if words}
    assert set(main.commands) - {"doctor"} <= shown


def test_the_readme_tells_every_command_and_exit_code():
    """Its tables are the program's."""
    rows = re.findall(r"^\| `(\w+)([^`]*)` \|", PAGES["README.md"], re.M)
    assert sorted(name for name, _ in rows) == sorted(main.commands)
    for name, words in rows:
        arguments = [
            p.make_metavar(click.Context(main)) for p in main.commands[name].params if p.param_type_name != "option"
        ]
        told = words.replace("\\", "").replace("-o DIR", "").split()
        assert [w.strip("[].{}") for w in told] == [w.strip("[].{}") for a in arguments for w in a.split()]
    assert docs.exit_codes() in PAGES["README.md"]
    assert sorted(docs.EXITS) == sorted(v for k, v in vars(errors).items() if k.startswith("EXIT_"))
    for name, code in ((k, v) for k, v in vars(errors).items() if k.startswith("EXIT_")):
        assert name.removeprefix("EXIT_").lower() in docs.EXITS[code]
        assert re.search(rf"\b{code} ", main.help)


def _sessions() -> set[str]:
    found = set()
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body:
        for decorator in getattr(node, "decorator_list", ()):
            named = {k.arg: ast.literal_eval(k.value) for k in getattr(decorator, "keywords", ())}
            found.add(named.get("name", node.name))
    return found


@pytest.mark.parametrize("page", [*PAGES, ".ci/run", ".github/workflows/conformance.yml"])
def test_every_nox_session_exists(page):
    """What follows ``nox -s``, up to ``--`` or the end of the command."""
    for line in _lines((ROOT / page).read_text(encoding="utf-8"), "nox -s"):
        named = re.split(r" -- | [|&]|\)|$", line)[0].split()
        assert named
        assert set(named) <= _sessions(), line


@by_page
def test_every_option_of_the_plugin_exists(page):
    """``--vit-...`` wherever it is mentioned."""
    parser = mock.Mock()
    plugin.pytest_addoption(parser)
    options = {call.args[0] for call in parser.getgroup.return_value.addoption.call_args_list}
    assert "--vit-target" in options
    assert set(re.findall(r"--vit-[a-z]+", PAGES[page])) <= options


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
    names = set(re.findall(r"`([a-z][a-z0-9]*(?:[_-][a-z0-9]+)*)`", prose)) - _OTHERS - _examples(PAGES[page])
    unknown = {name for name in names if not {name, name.replace("-", "_")} & _WORDS}
    assert not unknown


def test_a_name_that_is_gone_is_found():
    """Else the test above could not fail."""
    assert not {"native-identiti", "openai_klip"} & _WORDS
    assert {"native_identity", "openai_clip", "clip-early-return"} <= _WORDS


_FOREIGN = {"vision_transformer.py"}  # timm's
_BASENAMES = {p.name for folder in ("conformance", "reference", "tests") for p in (ROOT / folder).rglob("*.py")}


@pytest.mark.parametrize("page", OURS)
def test_every_file_mentioned_exists(page):
    """Paths from the root or from ``conformance/``; a bare name of some module of the project."""
    described = set(_described(PAGES[page]))
    for path in re.findall(r"`([\w./-]+\.(?:py|toml|md|yml|json|css))(?::[^`]*)?`", PAGES[page]):
        if (
            path in described
            or path in _FOREIGN
            or path in ("summary.md", "results.ndjson")
            or not path.strip("./").islower()
        ):
            continue
        if "/" in path and not path.startswith(("results/", "tests/test_conformance")):
            assert any((ROOT / base / path).exists() for base in ("", "conformance")), path
        elif "/" not in path and path.endswith(".py"):
            assert path in _BASENAMES, path


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
        *(("docs/use-in-your-repository.md", f"import {name}") for name in conformance.__all__),
    ],
)
def test_facts_are_true(page, fact):
    """What a page says in words, made of what the code has."""
    assert fact in (ROOT / page).read_text(encoding="utf-8")


def test_the_default_targets_are_the_helps():
    """The command line writes them out, so that its help needs no import."""
    assert " ".join(DEFAULT_TARGETS) in main.commands["run"].help


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
    default = inspect.signature(conformance.invariants.registry.invariant).parameters["applies"].default
    assert silent == {i.name for i in INVARIANTS.values() if i.applies is default}


# -- the worked examples -----------------------------------------------------------------------------------------------


def _described(text: str) -> Iterator[str]:
    """Files whose text a page gives."""
    return iter(path for path, _ in _files(text))


def _files(text: str) -> list[tuple[str, str]]:
    """A path at the end of a paragraph's first sentences, and the block of Python below it."""
    return re.findall(r"`([\w/]+\.py)`[^`\n]*:\n\n```python\n(.*?)```", text, re.S)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with the files that docs/how-to-add.md writes; what is there already is added to."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("conformance", "reference", "fixtures", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in _files(PAGES["docs/how-to-add.md"]):
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
        [sys.executable, "-m", "conformance.cli", *words],
        cwd=extended,
        env={**os.environ, "PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert shown in done.stdout
