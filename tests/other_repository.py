"""Another repository, thrown away after use: a package with loaders of its own, judged by its own pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as xml

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "use-in-your-repository.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)

LOADING = '''
import os
import reference

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


class Project:
    """Another repository: a package, its tests, and nothing of ours but what is importable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("mypackage/__init__.py", "")
        self.write("mypackage/loading.py", LOADING)
        self.write("pyproject.toml", '[tool.pytest.ini_options]\naddopts = "--strict-markers"\npythonpath = ["."]\n')

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *command: str, ahead: str = "") -> subprocess.CompletedProcess:
        """Run Python here; ``ahead`` comes before everything else that is importable."""
        path = os.pathsep.join(p for p in (ahead, str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
        environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def pytest(self, *options: str, ahead: str = "", plugin: bool = True) -> tuple[dict[str, tuple[str, str]], str]:
        """Run pytest; returns the outcome and the text of each test by its name, and all that was printed."""
        named = ["-p", "timm_conformance.plugin"] if plugin else []
        done = self.run("-m", "pytest", *named, "--junitxml=junit.xml", *options, ahead=ahead)
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
