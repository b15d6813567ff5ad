"""Gathers what a machine with a GPU and without a network needs for ``tests/cuda_run.sh``.

``python -m tests.cuda_bundle FOLDER REQUIREMENT...`` fills ``FOLDER/wheels`` with wheels for that machine and
``FOLDER/releases`` with the timm releases to judge. ``--python`` and ``--torch`` name the versions there. torch itself and
what it requires are not gathered: they take gigabytes, and the machine has them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from tests.cuda_run import TARGETS

ROOT = Path(__file__).resolve().parent.parent
# glibc 2.28 and older: also what is built for older systems runs there.
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)
_THERE = ("torch", "torchvision")  # their versions follow from that machine's torch
_PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:")


def stand_in(folder: Path, torch: str) -> None:
    """Write a wheel of torch that is empty and requires nothing.

    pip prefers its version to the real one, because it has a local part.
    """
    version = f"{torch}+there"
    info = f"torch-{version}.dist-info"
    with ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def constraints() -> list[str]:
    """The versions of constraints.txt but for those that follow from that machine's torch."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.split("==")[0] not in _THERE]


def gather(folder: Path, requirements: Iterable[str], python: str, torch: str) -> None:
    """Fill the folder. Raises :class:`subprocess.CalledProcessError` if pip cannot find or resolve something."""
    shutil.rmtree(folder, ignore_errors=True)
    wheels, releases = folder / "wheels", folder / "releases"
    for made in (wheels, releases):
        made.mkdir(parents=True)
    system = ("--implementation", "cp", "--python-version", python, *(f"--platform={name}" for name in _PLATFORMS))
    with TemporaryDirectory() as scratch:
        stand_in(Path(scratch), torch)
        pinned = Path(scratch) / "constraints.txt"
        pinned.write_text("\n".join([*constraints(), f"torch=={torch}"]) + "\n", encoding="utf-8")
        command = [*_PIP, *system, "--find-links", scratch, "--constraint", str(pinned), "--dest", str(wheels)]
        subprocess.run([*command, "pip", *requirements], check=True)
    for wheel in wheels.glob("torch-*"):
        wheel.unlink()
    for target in TARGETS:
        if target.startswith("timm=="):
            subprocess.run([*_PIP, "--no-deps", "--dest", str(releases), target], check=True)


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cuda_bundle")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--torch", default="2.11.0")
    parser.add_argument("requirements", nargs="+")
    asked = parser.parse_args(arguments)
    gather(asked.folder, asked.requirements, asked.python, asked.torch)
    files = sorted(path for path in asked.folder.rglob("*.whl"))
    size = sum(path.stat().st_size for path in files) / 2**20
    print(f"{asked.folder}: {len(files)} wheels, {size:.0f} MiB, for Python {asked.python} and torch {asked.torch}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
