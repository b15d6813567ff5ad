"""``python -m tests.upstream.packages FOLDER``: unpack the upstream implementations; import their modules one by one.

The packages of ``packages.txt`` pull in training frameworks, data loaders and CUDA kernels that a forward pass does not
need. So they are unpacked without their dependencies, and a module is imported without running the ``__init__`` of the
packages around it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).with_name("packages.txt")
# Set by `nox -s upstream`: where the packages are. Unset, the tests are skipped.
VARIABLE = "TIMM_CONFORMANCE_UPSTREAM"


def fetch(folder: Path) -> None:
    """Unpack the Python files of every package into ``folder``, unless they are there already.

    One wheel is built for one Python and one platform only; what is read of it is plain Python, so any machine may ask
    for that one.
    """
    stamp, wanted = folder / REQUIREMENTS.name, REQUIREMENTS.read_bytes()
    if stamp.is_file() and stamp.read_bytes() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="timm-conformance-") as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version=3.12"]
        command += ["--platform=manylinux1_x86_64", f"--dest={wheels}", f"--requirement={REQUIREMENTS}"]
        subprocess.run(command, check=True)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])
    stamp.write_bytes(wanted)


def unpacked() -> Path:
    """The folder of the unpacked packages."""
    return Path(os.environ[VARIABLE])


def load(name: str, *, without_init: tuple[str, ...] = ()) -> types.ModuleType:
    """Module ``name`` of an unpacked package, whose top-level package and ``without_init`` are treated as plain folders."""
    folder = unpacked()
    for package in (name.partition(".")[0], *without_init):
        if package not in sys.modules:
            _install(package).__path__ = [str(folder / package.replace(".", "/"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # timm's, about its older module names
        return importlib.import_module(name)


def load_whole(name: str) -> types.ModuleType:
    """Module ``name`` of an unpacked package that is imported as it is, with the ``__init__`` of its packages."""
    package = name.partition(".")[0]
    if package not in sys.modules:
        path = unpacked() / package / "__init__.py"
        spec = importlib.util.spec_from_file_location(package, path, submodule_search_locations=[str(path.parent)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[package] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(name)


def stub(name: str, **attributes: Any) -> types.ModuleType:
    """Stand in for a module that is imported but not used, or hardly: its ``attributes`` are all it has."""
    if name not in sys.modules:
        vars(_install(name)).update(attributes)
    return sys.modules[name]


def _install(name: str) -> types.ModuleType:
    """An empty module ``name``, known to its parent as imported ones are."""
    module = sys.modules[name] = types.ModuleType(name)
    parent, _, leaf = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], leaf, module)
    return module


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
