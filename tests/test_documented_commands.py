"""Commands, options and exit codes in the documentation are those of the program."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from unittest import mock

import click
import pytest
from packaging.specifiers import SpecifierSet

from tests.documents import PAGES, ROOT, WRITTEN, examples
from timm_conformance import errors, plugin
from timm_conformance.bench import __main__ as benchmark
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.cli import docs
from timm_conformance.cli.main import main
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.targets.target import DEFAULT_TARGETS, parse_target

LEDGER = [entry.id for entry in load_ledger(DEFAULT_LEDGER).entries]


def _lines(text: str, start: str) -> list[str]:
    """What follows ``start`` on a line of a code block, or in code within a line."""
    return [rest.strip() for rest in re.findall(rf"{re.escape(start)} +([^`\n]*)", text)]


def _placeholder(word: str) -> bool:
    """Whether a word stands for others: ``ID``, ``timm==...``, ``FAMILY:INVARIANT``, a file a run would have written."""
    return "..." in word or word.endswith(".json") or bool(re.fullmatch(r"[A-Z:|]+", word))


def _parsed(words: list[str], own: set[str]) -> click.Context:
    """A command line as click reads it, its names looked up. Raises click's own error, or an AssertionError."""
    with click.Context(main) as context:
        name, command, rest = main.resolve_command(context, words)
    with command.make_context(name, list(rest)) as context:
        given = context.params
    assert {*given.get("family", ()), *given.get("invariant", ())} <= {*FAMILIES, *INVARIANTS, *own}
    assert given.get("profile", "gate") in PROFILES
    SpecifierSet(given.get("specifier") or "")
    for target in (*given.get("targets", ()), *given.get("names", ())):
        if not _placeholder(target) and not target.startswith("path:") and target not in LEDGER:
            parse_target(target)
    subject = given.get("subject", "")
    if subject.isdecimal():
        assert any(entry.link.endswith(f"/{subject}") for entry in load_ledger(DEFAULT_LEDGER).entries)
    elif subject and not _placeholder(subject) and subject not in LEDGER:
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


@pytest.mark.parametrize("page", WRITTEN)
def test_every_command_line_is_one_that_the_program_takes(page):
    """With options, families, invariants, profiles and targets that exist."""
    for words in _command_lines(page):
        if words not in (["--help"], []):
            _parsed(words, examples(PAGES[page]))


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
        options = [p for p in main.commands[name].params if p.param_type_name == "option" and p.required]
        arguments = [
            p.make_metavar(click.Context(main)) for p in main.commands[name].params if p.param_type_name != "option"
        ]
        shown = re.findall(r" (--?[\w-]+) \w+", words)
        assert len(shown) == len(options)
        assert all(option in p.opts for option, p in zip(shown, options))
        told = re.sub(r" --?[\w-]+ \w+", "", words).replace("\\", "").split()
        assert [w.strip("[].{}") for w in told] == [w.strip("[].{}") for a in arguments for w in a.split()]
    assert docs.exit_codes() in PAGES["README.md"]
    assert sorted(docs.EXITS) == sorted(v for k, v in vars(errors).items() if k.startswith("EXIT_"))
    for name, code in ((k, v) for k, v in vars(errors).items() if k.startswith("EXIT_")):
        assert name.removeprefix("EXIT_").replace("_", " ").lower() in docs.EXITS[code]
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
        line = re.sub(r'"(\w+)\([^"]*\)"', r"\1", line)  # one environment of a session: "compat(baseline)"
        named = re.split(r" -- | [|&]|\)|$", line)[0].split()
        assert named
        assert set(named) <= _sessions(), line


def _plugins_options() -> set[str]:
    parser = mock.Mock()
    plugin.add_options(parser)
    return {call.args[0] for call in parser.getgroup.return_value.addoption.call_args_list}


@pytest.mark.parametrize("page", PAGES)
def test_every_option_of_the_plugin_exists(page):
    """``--vit-...`` wherever it is mentioned."""
    assert "--vit-target" in _plugins_options()
    assert set(re.findall(r"--vit-[a-z]+", PAGES[page])) <= _plugins_options()


_OTHERS = {"--dist", "--lf", "--help"}  # pytest's, and click's own


@pytest.mark.parametrize("page", WRITTEN)
def test_every_option_mentioned_exists(page):
    """``--fresh`` and the like at the start of code within a line."""
    commands = (*main.commands.values(), benchmark.main)
    options = {o for command in commands for p in command.params for o in (*p.opts, *p.secondary_opts)}
    options |= _plugins_options() | _OTHERS
    assert set(re.findall(r"`(--[a-z-]+)", PAGES[page])) <= options


def test_the_default_targets_are_the_helps():
    """The command line writes them out, so that its help needs no import."""
    assert " ".join(DEFAULT_TARGETS) in main.commands["run"].help
