"""The repository is consistent: the catalogue, the formats, the direction of imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.preloaded import PYTHON
from timm_conformance.drawing.catalogue import catalogue, models_of
from timm_conformance.families import FAMILIES
from timm_conformance.targets.target import MODEL_RELEASE

ROOT = Path(__file__).resolve().parent.parent


def test_the_catalogue_is_the_registry_of_the_newest_release():
    """models.json is what timm registers, so the real sizes drawn are real."""
    code = "import sys, msgspec\nfrom timm_conformance.targets.target import activate, parse_target\n"
    code += "activate(parse_target(sys.argv[1]))\nfrom timm_conformance.targets.registry import read_registry\n"
    code += "print(msgspec.json.encode(read_registry()).decode())"
    done = subprocess.run([sys.executable, "-c", code, f"timm=={MODEL_RELEASE}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(msgspec.json.encode(list(catalogue().values())))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_format_and_real_models(name):
    """A family is also a reference format, and registered models load it."""
    from timm_conformance.reference import FORMATS

    assert FAMILIES[name].format in FORMATS
    assert models_of(FAMILIES[name])


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_importing_the_reference_imports_torch_and_nothing_else():
    """NumPy is torch's own; the suite's own packages stay out."""
    script = (
        "import sys, torch; before = set(sys.modules); from timm_conformance import reference; "
        "new = {'.'.join(name.split('.')[:2]) for name in set(sys.modules) - before}; "
        "print(*sorted(n for n in new if n.split('.')[0] not in {'torch', 'numpy', *sys.stdlib_module_names}))"
    )
    done = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["timm_conformance", "timm_conformance.reference"]


def test_who_imports_what():
    """`reference` imports torch and NumPy alone; only modules of a worker import timm. import-linter holds the layers."""
    for path in (ROOT / "reference").rglob("*.py"):
        outside = _imports(path) - set(sys.stdlib_module_names)
        assert outside <= {"torch", "numpy"}, path
    conformance = ROOT / "conformance"
    importing = {p.relative_to(conformance).as_posix() for p in conformance.rglob("*.py") if "timm" in _imports(p)}
    workers = {
        "bench/subject.py",
        "check/calls.py",
        "check/loading.py",
        "repro/entry_points.py",
        "repro/causes.py",
    }
    targets = {f"targets/{name}.py" for name in ("loader", "factory", "registry", "backbones", "architectures")}
    assert importing == targets | workers
