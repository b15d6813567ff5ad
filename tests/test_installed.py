"""The wheel, installed beside a repository that has packages of its own under the names of our folders."""

from __future__ import annotations

import json
import zipfile

import pytest

from tests import preloaded
from tests.check_files import TINY, tensors
from tests.other_repository import OWN, ROOT, Project
from timm_conformance.checkpoints import files

CHOSEN = ("--family=openai_clip", "--invariant=strict-load", "--profile=smoke")


def test_the_wheel_has_every_file_of_three_folders(wheel):
    """Modules, stored data, what the reports are made of; the license. Neither tests nor pages."""
    folders = {"conformance": "", "reference": "reference/", "fixtures": "fixtures/"}
    wanted = {
        f"timm_conformance/{inside}{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == wanted
    assert {name.partition("/")[2] for name in about} == {
        "licenses/LICENSE",
        "METADATA",
        "WHEEL",
        "entry_points.txt",
        "top_level.txt",
        "RECORD",
    }


# -- names of their own --------------------------------------------------------------------------------------------------

BESIDE = f"""
import {", ".join(OWN)}
from pathlib import Path

import timm_conformance
from timm_conformance import reference as corrected
from timm_conformance.cases.fixtures import CHECKOUT, FIXTURES


def test_beside():
    here = Path(__file__).parent.parent
    for package in ({", ".join(OWN)}):
        assert package.OWN and here in Path(package.__file__).parents
    assert here not in Path(timm_conformance.__file__).parents
    assert Path(corrected.__file__).parent == Path(timm_conformance.__file__).parent / "reference"
    assert CHECKOUT is None and FIXTURES.is_dir()
"""


@pytest.mark.parametrize("bare", [True, False], ids=["pytest", "python -m pytest"])
@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_their_tests_import_their_packages(project, bare, mode):
    project.write("tests/test_beside.py", BESIDE)
    found, said = project.pytest(f"--import-mode={mode}", bare=bare)
    assert {name: outcome for name, (outcome, _) in found.items()} == {"test_beside": "passed"}, said


LOADER = """
from timm_conformance import vit_conformance
from mypackage.loading import convert

test_it = vit_conformance(convert, families=["openai_clip"], invariants=["strict-load"], profile="smoke")
"""
SUITE = ("--pyargs", "timm_conformance.suite", "--vit-target=loader:mypackage.loading:convert", "--vit-profile=smoke")


@pytest.mark.parametrize(
    ("how", "mode", "bare"),
    [
        ("wheel", "prepend", True),
        ("wheel", "importlib", False),
        ("editable", "prepend", False),
        ("editable", "importlib", True),
    ],
)
def test_their_tests_and_the_suite_in_one_run(tmp_path, wheel_python, bare, mode, how):
    """The suite is imported by its name, never by that of a folder, nor does their `python_files` hide it."""
    python = wheel_python if how == "wheel" else preloaded.PYTHON
    project = Project(tmp_path, type(wheel_python)(python))
    project.write("pytest.ini", "[pytest]\npythonpath = .\npython_files = test_l*.py\npython_functions = test_it\n")
    project.write("tests/test_loader.py", LOADER)
    chosen = ("--vit-family=openai_clip", "--vit-invariant=strict-load", f"--import-mode={mode}")
    found, said = project.pytest("tests", *SUITE, *chosen, bare=bare)
    assert found["test_it[openai_clip-strict-load]"][0] == "passed", said
    assert found["test_invariant[openai_clip-strict-load]"][0] == "passed", said
    assert found["test_witness[clip-early-return]"][0] == "passed", said


def test_a_run_from_their_root(project):
    """The worker imports the installed suite and the repository's own packages."""
    lines = [
        "import conformance, fixtures, reference, timm_conformance",
        "from mypackage.loading import convert as right",
    ]
    lines += ["from timm_conformance.reference import load_state_dict", "", "def convert(checkpoint, model):"]
    lines += ["    modules = (timm_conformance, conformance, fixtures, reference)"]
    lines += ["    open('files.txt', 'w').write('\\n'.join(module.__file__ for module in modules))"]
    project.write("mypackage/telling.py", "\n".join([*lines, "    return right(checkpoint, model)"]))
    done = project.execute("timm-conformance", "run", "loader:mypackage.telling:convert", *CHOSEN)
    assert done.returncode == 0, done.stdout + done.stderr
    suite, *own = (project.folder / "files.txt").read_text().splitlines()
    assert suite.startswith(str(project.python.parent.parent))
    assert all(file.startswith(str(project.folder)) for file in own)


def test_other_commands_from_their_root(project):
    """Those that ask processes of their own: replay, repro, check."""
    done = project.execute("timm-conformance", "replay", "clip-early-return", "timm==0.9.16")
    assert done.stdout.startswith("FAILS"), done.stderr
    done = project.execute("timm-conformance", "repro", "clip-early-return", "-o", "repro.py")
    assert done.returncode == 0, done.stderr
    assert "exit code 1" in done.stdout + done.stderr
    assert (project.folder / "repro.py").is_file()
    files.write(tensors("timm_native", TINY), "bare", "safetensors", project.folder)
    (file,) = project.folder.glob("*.safetensors")
    done = project.execute("timm-conformance", "check", file.name, "--model", TINY, "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


# -- what a wheel lacks ---------------------------------------------------------------------------------------------------


def test_what_needs_a_checkout_says_so(project):
    """One line, and nothing is written into the environment."""
    done = project.execute("timm-conformance", "vectors")
    assert (done.returncode, done.stderr) == (
        2,
        "timm-conformance: the project's vectors are written in a checkout; write others with -o DIR\n",
    )
    done = project.run("-m", "timm_conformance.cli.docs")
    assert done.returncode == 2
    assert done.stderr.startswith("timm_conformance.cli.docs: only a checkout has the pages of docs/")
    assert len(done.stderr.splitlines()) == 1


def test_stored_vectors_are_compared_where_they_are_installed(project):
    done = project.execute("timm-conformance", "vectors", "--check", "--family", "openai_clip")
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(project.python.parent.parent) in done.stdout
