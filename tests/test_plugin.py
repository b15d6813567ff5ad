"""The suite in another repository: a throw-away project with a loader of its own, judged by its own pytest."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from itertools import pairwise

import pytest

from tests.other_repository import BLOCKS, ROOT, Project
from timm_conformance import reference, vit_conformance
from timm_conformance.engine import session
from timm_conformance.engine.session import Session
from timm_conformance.errors import UserError
from timm_conformance.targets import releases
from timm_conformance.targets.target import MODEL_RELEASE

FEW = 'families=["openai_clip"], invariants=["strict-load", "finite"], profile="smoke"'


# -- the three lines -----------------------------------------------------------------------------------------------------


def test_the_three_lines_of_the_page(project):
    """The page's first block is a test file: every family x invariant is a test with a stable id, and -k chooses."""
    project.write("tests/test_conformance.py", BLOCKS[0])
    assert len([line for line in BLOCKS[0].splitlines() if line]) == 3
    _, said = project.pytest("--collect-only", "-q")
    ids = re.findall(r"^tests/test_conformance\.py::test_conformance\[(.*)\]$", said, re.M)
    assert {i.partition("-")[0] for i in ids} == {"openai_clip", "dinov2"}
    assert len(ids) == len(set(ids)) == 2 * len([i for i in ids if i.startswith("dinov2-")])
    outcomes, said = project.pytest("-k", "openai_clip and (strict-load or rel-pos-identity)")
    assert {name: outcome for name, (outcome, _) in outcomes.items()} == {
        "test_conformance[openai_clip-strict-load]": "passed",
        "test_conformance[openai_clip-rel-pos-identity]": "skipped",
    }, said
    assert "has nothing to judge here" in outcomes["test_conformance[openai_clip-rel-pos-identity]"][1]


def test_outcomes(project):
    """The fault of #2120 fails, with the command that replays it; a known failure is expected until it is gone."""
    lines = [
        "from timm_conformance import vit_conformance",
        "from mypackage.loading import convert, returns_early",
        f"test_wrong = vit_conformance(returns_early, {FEW})",
        f"test_unnamed = vit_conformance(lambda checkpoint, model: returns_early(checkpoint, model), {FEW})",
        f"test_gone = vit_conformance(convert, known_failures={{'openai_clip:strict-load': 'see #12'}}, {FEW})",
    ]
    project.write("tests/test_conformance.py", "\n".join(lines))
    project.write("tests/test_page.py", BLOCKS[1])
    found, said = project.pytest()
    assert {name.replace("[openai_clip-", " ").rstrip("]"): outcome for name, (outcome, _) in found.items()} == {
        "test_wrong strict-load": "failure",
        "test_wrong finite": "passed",
        "test_unnamed strict-load": "failure",
        "test_unnamed finite": "passed",
        "test_gone strict-load": "failure",
        "test_gone finite": "passed",
        "test_early strict-load": "xfailed",
        "test_early no-early-return": "xfailed",
        "test_early finite": "passed",
    }, said
    text = found["test_wrong[openai_clip-strict-load]"][1]
    assert "strict-load:openai_clip:size-mismatch:patch_embed.proj.weight[patch-grow]" in text
    assert re.search(r"patch_embed\.proj\.weight is \(.*\), the model has \(.*\)", text)
    assert re.search(
        r"file +openai_clip, float32; patch \dx\d, grid \dx\d .*\n.*call +mypackage.loading:returns_early\(", text
    )
    assert re.search(r"case +Case\(family='openai_clip', arch=", text)
    command = re.search(r"see it again: timm-conformance (replay .*)", text)[1].split()
    done = project.run("-m", "timm_conformance.cli.main", *command)
    assert "FAILS" in done.stdout, done.stderr
    assert command[-1].startswith("loader:mypackage.loading:returns_early")
    unnamed = found["test_unnamed[openai_clip-strict-load]"][1]
    assert "see it again: pytest 'tests/test_conformance.py::test_unnamed[openai_clip-strict-load]'" in unnamed
    assert (
        "[XPASS(strict)] openai_clip:strict-load no longer fails (see #12)"
        in found["test_gone[openai_clip-strict-load]"][1]
    )
    assert "the patch kernel is not resampled, see #12" in found["test_early[openai_clip-strict-load]"][1]


MISTAKES = {
    "families=['clip']": "unknown family 'clip': did you mean 'eva_clip'?",
    "invariants=['strict_load']": "unknown invariant 'strict_load': did you mean 'strict-load'?",
    "profile='gates'": "unknown profile 'gates': did you mean 'gate'?",
    "known_failures={'openai_clip:stric-load': ''}": "unknown invariant 'stric-load': did you mean 'strict-load'?",
    "known_failures={'strict-load': ''}": "known failure 'strict-load': write FAMILY:INVARIANT",
    "timm='newest'": "'newest' is no version",
}


def test_mistakes_are_errors_of_the_collection(project):
    """Each in one line, before anything is judged."""
    for number, mistake in enumerate(MISTAKES):
        lines = ["from timm_conformance import vit_conformance", "from mypackage.loading import convert"]
        project.write(f"tests/test_{number}.py", "\n".join([*lines, f"test = vit_conformance(convert, {mistake})"]))
    found, said = project.pytest()
    assert f"{len(MISTAKES)} errors during collection" in said
    assert "Traceback" not in said
    told = [after for line, after in pairwise(said.splitlines()) if "ERROR collecting" in line]
    assert all(wanted in line for wanted, line in zip(MISTAKES.values(), told, strict=True)), told
    assert {outcome for outcome, _ in found.values()} == {"error"}


def test_each_test_runs_once_in_several_workers(project):
    """With `-n 2 --dist loadfile` one process draws the family, and every test runs once."""
    pytest.importorskip("xdist")
    lines = ["from timm_conformance import vit_conformance", "from mypackage.loading import tells"]
    project.write("tests/test_conformance.py", "\n".join([*lines, f"test_it = vit_conformance(tells, {FEW})"]))
    found, said = project.pytest("-n", "2", "--dist", "loadfile")
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        "test_it[openai_clip-strict-load]": "passed",
        "test_it[openai_clip-finite]": "passed",
    }, said
    assert len(set((project.folder / "met.txt").read_text().splitlines())) == 1


def test_a_family_is_a_group_of_workers():
    """For `--dist loadgroup`: each test is marked with the family it needs explored."""
    made = vit_conformance(reference.load_state_dict, families=["openai_clip", "dinov2"], invariants=["finite"])
    (parametrized,) = made.pytestmark
    groups = {p.id: [m.args for m in p.marks if m.name == "xdist_group"] for p in parametrized.args[1]}
    assert groups == {"dinov2-finite": [("dinov2",)], "openai_clip-finite": [("openai_clip",)]}


# -- which timm ----------------------------------------------------------------------------------------------------------

WITH_TIMM = """
import timm
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

def convert(checkpoint, model):
    assert timm.__version__ == "0.9.16"
    assert isinstance(model, VisionTransformer)
    return checkpoint_filter_fn(checkpoint, model)
"""


def test_a_loader_that_imports_timm(project):
    """Models are of the timm the repository has, here 0.9.16 with its #2120; another one cannot be had beside it."""
    project.write(
        "conftest.py", "from timm_conformance.targets import torchvision_shim\n\ntorchvision_shim.install()\n"
    )
    project.write("mypackage/with_timm.py", WITH_TIMM)
    lines = [
        "from timm_conformance import vit_conformance",
        "from mypackage.with_timm import convert",
        f"test_installed = vit_conformance(convert, {FEW})",
        f"test_another = vit_conformance(convert, timm='{MODEL_RELEASE}', {FEW})",
    ]
    project.write("tests/test_conformance.py", "\n".join(lines))
    found, said = project.pytest(ahead=str(releases.ensure("0.9.16")))
    outcome, text = found["test_installed[openai_clip-strict-load]"]
    assert outcome == "failure", said
    assert "size-mismatch:patch_embed.proj.weight" in text
    assert "models of timm 0.9.16" in text
    assert text.rstrip().endswith("loader:mypackage.with_timm:convert@installed")
    assert found["test_installed[openai_clip-finite]"][0] == "passed"
    for name in ("test_another[openai_clip-strict-load]", "test_another[openai_clip-finite]"):
        assert found[name][0] == "failure"
        assert (
            "another timm, 0.9.16, is imported already; loader:mypackage.with_timm:convert@installed" in found[name][1]
        )


@pytest.mark.parametrize(
    ("installed", "asked", "models"),
    [
        (True, None, "installed"),
        (False, None, MODEL_RELEASE),
        (True, "1.0.20", "1.0.20"),
        (True, "timm==1.0.20", "1.0.20"),
    ],
)
def test_models_are_of_the_installed_timm_unless_another_is_named(monkeypatch, installed, asked, models):
    """Where none is installed, of the newest release the gate runs on."""
    monkeypatch.setattr(session, "timm_is_installed", lambda: installed)
    monkeypatch.setattr("timm_conformance.targets.target.timm_is_installed", lambda: installed)
    assert Session.on(reference.load_state_dict, asked).target.models == models


def test_no_installed_timm_is_a_mistake(monkeypatch):
    """Asked for by name, it has to be there."""
    monkeypatch.setattr("timm_conformance.targets.target.timm_is_installed", lambda: False)
    with pytest.raises(UserError, match="no timm in this environment"):
        Session.on(reference.load_state_dict, "installed")


# -- the command line ----------------------------------------------------------------------------------------------------

SUITE = ("--pyargs", "timm_conformance.suite", "--vit-profile=smoke", "--vit-family=openai_clip")


def test_the_suite_from_the_command_line(project):
    """A loader is judged without a test file, and its results are kept."""
    loader = ("--vit-target", "loader:mypackage.loading:convert", "--vit-results", "results.ndjson")
    found, said = project.pytest(*SUITE, "--vit-invariant=strict-load", *loader)
    assert found["test_invariant[openai_clip-strict-load]"][0] == "passed", said
    assert found["test_witness[clip-early-return]"][0] == "passed"
    assert {name.partition("[")[0] for name in found} == {"test_witness", "test_invariant"}
    assert len([name for name in found if name.startswith("test_invariant")]) == 1
    kept = [json.loads(line) for line in (project.folder / "results.ndjson").read_text().splitlines()]
    assert {"header", "verdict", "witness", "footer"} <= {line["type"] for line in kept}


def test_a_checkout_from_its_own_root(tmp_path, wheel_python):
    """`--vit-target path:.` is for those who keep a fork; what the ledger knows of its version is expected."""
    shutil.copytree(releases.ensure("0.9.16") / "timm", tmp_path / "timm")
    found, said = Project(tmp_path, wheel_python).pytest(*SUITE, "--vit-invariant=strict-load", "--vit-target=path:.")
    assert found["test_invariant[openai_clip-strict-load]"][0] == "xfailed", said
    assert "clip-early-return" in found["test_invariant[openai_clip-strict-load]"][1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "the suite needs a target: add for example --vit-target timm==1.0.31"),
        (["--vit-target=timm=1"], "ERROR: unknown target 'timm=1'"),
        (["--vit-target=reference", "--vit-invariant=strict"], "ERROR: unknown invariant 'strict': did you mean"),
    ],
)
def test_mistakes_on_the_command_line(project, options, says):
    """One line, and no test runs."""
    found, said = project.pytest(*SUITE, *options)
    assert any(line.startswith(says) for line in said.splitlines()), said
    assert "Traceback" not in said
    assert not {outcome for outcome, _ in found.values()} - {"error"}


# -- inert ---------------------------------------------------------------------------------------------------------------

ORDINARY = "def test_of_theirs():\n    pass\n"
PLUGIN = "timm_conformance.plugin"
# In a process of its own: what the import of the plugin adds to what pytest has imported.
ADDED = f"""
import importlib, pytest, sys
from _pytest.config import get_config

get_config([]).pluginmanager.import_plugin("cacheprovider")
before = set(sys.modules)
importlib.import_module("{PLUGIN}")
print(sorted(set(sys.modules) - before))
"""


def _modules(said: str) -> set[str]:
    return set(re.findall(r"'([\w.]+)'", said))


def test_importing_the_plugin_imports_nothing_else(project):
    """Every pytest run of the environment imports it: the package and the plugin, two modules, are all it may cost."""
    project.preloaded = False
    done = project.run("-c", ADDED)
    assert _modules(done.stdout) == {"timm_conformance", PLUGIN}, done.stdout + done.stderr


SEEN = f"""
import sys

def test_nothing_is_imported():
    heavy = {{"torch", "timm", "torchvision", "numpy", "msgspec"}}
    assert not heavy & {{name.partition(".")[0] for name in sys.modules}}
    assert {{n for n in sys.modules if n.partition(".")[0] == "timm_conformance"}} == {{"timm_conformance", "{PLUGIN}"}}
"""


@pytest.mark.parametrize("named", [(), ("-p", PLUGIN)], ids=["installed", "named"])
@pytest.mark.parametrize("bare", [True, False], ids=["pytest", "python -m pytest"])
def test_inert_unless_asked(project, named, bare):
    """With the plugin loaded, by its entry point and by name as well, an ordinary run imports and collects nothing of ours."""
    project.preloaded = False
    project.write("tests/test_inert.py", SEEN)
    found, said = project.pytest("--trace-config", *named, bare=bare)
    assert f"PLUGIN registered: <module '{PLUGIN}'" in said
    assert {name: outcome for name, (outcome, _) in found.items()} == {"test_nothing_is_imported": "passed"}, said


def test_the_entry_point_and_the_name_are_one_plugin():
    """pytest registers a module once: `-p timm_conformance.plugin` has to work where the plugin is installed."""
    declared = re.search(r"entry-points\.pytest11\]\n(.*)\n", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared[1] == f'"{PLUGIN}" = "{PLUGIN}"'


BROKEN = {
    "torch": "raise ImportError('no CUDA driver')",
    "hypothesis/__init__": "raise RuntimeError('half an upgrade')",
    "msgspec": "",
}


@pytest.mark.parametrize(
    "options",
    [
        ("--strict-markers", "--strict-config", "-W", "error"),
        ("-p", "no:timm_conformance.plugin"),
        ("-p", PLUGIN, "-p", PLUGIN),
        ("-c", "other.ini"),
        ("-n", "2"),
        ("--import-mode=importlib",),
        ("-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:xdist"),
        ("-o", "addopts=-q --color=yes"),
    ],
    ids=" ".join,
)
def test_an_ordinary_run_does_not_fail(project, tmp_path_factory, options):
    """However pytest is started, and whatever the suite itself would need is broken."""
    broken = tmp_path_factory.mktemp("broken")
    for name, text in BROKEN.items():
        (broken / name).parent.mkdir(exist_ok=True)
        (broken / f"{name}.py").write_text(text, encoding="utf-8")
    project.write("other.ini", "[pytest]\naddopts = -q\n")
    project.write("tests/test_ordinary.py", ORDINARY)
    # Hypothesis has a pytest plugin too, which would fail.
    found, said = project.pytest(*options, "-p", "no:hypothesispytest", ahead=str(broken), PYTEST_ADDOPTS="--maxfail=3")
    assert {name: outcome for name, (outcome, _) in found.items()} == {"test_of_theirs": "passed"}, said


def test_options_of_the_same_name_are_theirs(project):
    """A conftest.py may have `--vit-seed` and even `--vit-target` for itself."""
    theirs = """
        def pytest_addoption(parser):
            parser.addoption("--vit-seed", default="theirs")
            parser.addoption("--vit-target", default="nobody")
    """
    project.write("conftest.py", textwrap.dedent(theirs))
    lines = ["def test_options(pytestconfig):", "    assert pytestconfig.getoption('vit_seed') == 'theirs'"]
    project.write("tests/test_options.py", "\n".join([*lines, "    assert pytestconfig.option.vit_target == 'nobody'"]))
    found, said = project.pytest()
    assert found["test_options"][0] == "passed", said


@pytest.mark.parametrize("where", ["PYTEST_ADDOPTS", "addopts", "file"])
def test_options_are_found_wherever_they_are_given(project, where):
    """In the environment, the configuration, and a file of arguments."""
    options = "--vit-target=reference --vit-invariant=finite"
    project.write("arguments.txt", options.replace(" ", "\n"))
    project.write("pytest.ini", f"[pytest]\naddopts = -q {options if where == 'addopts' else ''}\n")
    file = ("@arguments.txt",) if where == "file" else ()
    found, said = project.pytest(
        *file, "-k", "test_invariant", *SUITE, **({where: options} if where == "PYTEST_ADDOPTS" else {})
    )
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        "test_invariant[openai_clip-finite]": "passed"
    }, said


def test_help_names_the_options(project):
    _, said = project.pytest("--help")
    assert "--vit-target=TARGET" in said


def test_without_plugins_a_loader_is_still_tested(project):
    """`PYTEST_DISABLE_PLUGIN_AUTOLOAD` leaves nobody who knows the mark of pytest-xdist: it is left off."""
    lines = ["from timm_conformance import vit_conformance", "from mypackage.loading import convert"]
    project.write("tests/test_loader.py", "\n".join([*lines, f"test_it = vit_conformance(convert, {FEW})"]))
    strictly = ("--strict-markers", "-W", "error::pytest.PytestUnknownMarkWarning")
    for options in (strictly, ("-o", "addopts=", "-W", "error::pytest.PytestUnknownMarkWarning")):
        found, said = project.pytest(*options, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
        assert {outcome for outcome, _ in found.values()} == {"passed"}, said
        assert len(found) == 2
