"""Another repository, thrown away after use: a package with loaders of its own, judged by its own pytest.

Its tests run in an environment that has timm-conformance from a wheel. Its own packages have the names of our folders.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from xml.etree import ElementTree as xml

from tests import preloaded

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "use-in-your-repository.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)

# Packages at its top that have the names of our folders.
OWN = ("conformance", "reference", "fixtures", "tests")

LOADING = '''
import os

import conformance
import fixtures
import reference as own
from timm_conformance import reference

assert conformance.OWN and fixtures.OWN and own.OWN

def convert(checkpoint, model):
    """What is right."""
    return reference.load_state_dict(checkpoint, model)

def returns_early(checkpoint, model):
    """Issue #2120: CLIP's patch kernel never meets the resampling."""
    state = reference.load_state_dict(checkpoint, model)
    return {**state, "patch_embed.proj.weight": reference.unwrap(checkpoint)["visual.conv1.weight"]}

def tells(checkpoint, model):
    """Right, and writes down in which process."""
    with open("met.txt", "a") as file:
        print(os.getpid(), file=file)
    return convert(checkpoint, model)
'''


# What builds a wheel.
_SOURCES = ("conformance", "reference", "fixtures", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
_PYTEST = """#!{python}
import sys
from pytest import console_main
sys.exit(console_main())
"""


def build_wheel(folder: Path) -> Path:
    """A wheel of this checkout, built in ``folder``."""
    for name in _SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True)
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a new environment, which has the packages of this one besides. Returns its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    query = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip())
    # Of a folder that a .pth file names Python reads no .pth files: an editable install there stays unseen.
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "others.pth").write_text("\n".join(others), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True)
    (folder / "bin" / "pytest").write_text(_PYTEST.format(python=python), encoding="utf-8")
    (folder / "bin" / "pytest").chmod(0o755)
    return python


class Project:
    """Another repository: a package, its tests, and ``python``, the environment that these run in.

    ``preloaded`` is whether its Python may have imported torch already (:mod:`tests.preloaded`).
    """

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder = folder
        self.python = python
        self.preloaded = True
        self.write("mypackage/__init__.py", "")
        self.write("mypackage/loading.py", LOADING)
        for name in OWN:
            self.write(f"{name}/__init__.py", "OWN = True\n")
        self.write("pyproject.toml", '[tool.pytest.ini_options]\naddopts = "--strict-markers"\npythonpath = ["."]\n')

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *command: str, ahead: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Run Python here; ``ahead`` comes before everything else that is importable, ``more`` is environment."""
        return self.execute(str(self.python), *command, ahead=ahead, **more)

    def execute(self, *command: str, ahead: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment here, found as in a shell."""
        unwanted = ("PYTEST_", "COV_", "PYTHONPATH")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
        environment |= {"OMP_NUM_THREADS": "1", "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"}
        environment |= ({"PYTHONPATH": ahead} if ahead else {}) | more
        program = shutil.which(command[0], path=environment["PATH"])
        assert program is not None, f"{command[0]} is not installed"
        if self.preloaded and program == str(self.python):
            program = preloaded.client(self.python)
        return subprocess.run([program, *command[1:]], cwd=self.folder, env=environment, capture_output=True, text=True)

    def pytest(
        self, *options: str, ahead: str = "", bare: bool = False, **more: str
    ) -> tuple[dict[str, tuple[str, str]], str]:
        """Run pytest, as ``python -m pytest`` or ``bare``.

        Returns the outcome and the text of each test by its name, and all that was printed.
        """
        command = ["pytest"] if bare else [str(self.python), "-m", "pytest"]
        done = self.execute(*command, "--junitxml=junit.xml", *options, ahead=ahead, **more)
        report = self.folder / "junit.xml"
        return (_outcomes(report) if report.is_file() else {}), done.stdout + done.stderr


def _outcomes(report: Path) -> dict[str, tuple[str, str]]:
    found = {}
    for case in xml.parse(report).iter("testcase"):
        said = next(iter(case), None)
        outcome = "passed" if said is None else {"pytest.xfail": "xfailed"}.get(said.get("type"), said.tag)
        text = "" if said is None else f"{said.get('message')}\n{said.text or ''}"
        found[case.get("name")] = (outcome, text)
    report.unlink()
    return found
