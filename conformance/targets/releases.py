"""Side-loaded timm releases: each wheel unpacked into its own folder of a cache, one torch for all.

The cache is ``$TIMM_CONFORMANCE_CACHE``, or the user's cache directory. timm wheels are pure Python, 2-3 MB each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ..errors import UserError

FIRST_RELEASE = "0.9.0"  # the oldest whose loaders the suite judges
_NETWORK_HINT = "is the network down? A cached release needs none: see `timm-conformance list releases`"


def cache_dir() -> Path:
    """Folder that holds one sub-folder for each unpacked release."""
    chosen = os.environ.get("TIMM_CONFORMANCE_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("timm-conformance") / "releases"


def cached() -> list[str]:
    """The releases in the cache, oldest first."""
    names = [p.name for p in cache_dir().glob("*") if (p / "timm" / "__init__.py").is_file()]
    return sorted((n for n in names if _is_version(n)), key=Version)


def available() -> list[str] | None:
    """The releases from 0.9.0 on that the package index lists, oldest first; None if the index cannot be reached."""
    command = [sys.executable, "-m", "pip", "index", "versions", "timm", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--retries=1", "--timeout=20"], capture_output=True, text=True)
    listed = re.search(r"^Available versions: (.+)$", done.stdout, re.M)
    if done.returncode or listed is None:
        return None
    return [str(v) for v in sorted(map(Version, listed.group(1).split(", "))) if v >= Version(FIRST_RELEASE)]


def matching(specifier: str) -> tuple[list[str], bool]:
    """The releases that a specifier such as ``>=1.0,<1.0.20`` admits, oldest first, and whether the package index was read.

    If the index cannot be reached, they are those in the cache. Raises :class:`UserError` for text that is no specifier, and
    for a specifier that admits no release.
    """
    try:
        wanted = SpecifierSet(specifier)
    except InvalidSpecifier:
        raise UserError(
            f"--releases {specifier!r}: write a version specifier, for example '>=0.9' or '>=1.0,<1.0.20'"
        ) from None
    listed = available()
    names = [n for n in cached() if Version(n) >= Version(FIRST_RELEASE)] if listed is None else listed
    found = [name for name in names if wanted.contains(name, prereleases=False)]
    if not found:
        where = "in the cache (the package index cannot be asked)" if listed is None else f"from {FIRST_RELEASE} on"
        raise UserError(f"--releases {specifier!r}: there is no such release {where}")
    return found, listed is not None


def _is_version(name: str) -> bool:
    try:
        Version(name)
    except InvalidVersion:
        return False
    return True


def ensure(release: str) -> Path:
    """Folder of an unpacked release. pip downloads a release that is not cached.

    Raises :class:`UserError` if there is no such release, or if it cannot be downloaded.
    """
    folder = cache_dir() / str(Version(release))
    if (folder / "timm" / "__init__.py").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download(release, Path(scratch))
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        try:
            unpacked.rename(folder)
        except OSError:  # another process was faster: its copy is the same
            if not (folder / "timm" / "__init__.py").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                shutil.move(unpacked, folder)
    return folder


def _download(release: str, into: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    command += ["--retries=1", "--timeout=20", "--dest", str(into), f"timm=={release}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheel = next(into.glob("timm-*.whl"), None)
    if done.returncode == 0 and wheel is not None:
        return wheel
    if "No module named pip" in done.stderr:
        raise UserError(f"cannot fetch timm {release}: this environment has no pip; install pip, or fill {cache_dir()}")
    listed = re.search(r"\(from versions: ([^)]*)\)", done.stderr)
    known = [v for v in re.split(r",\s*", listed.group(1)) if _is_version(v)] if listed else []
    if known:
        asked, newest = Version(release), max(map(Version, known))
        nearest = newest if asked > newest else min(known, key=lambda v: _distance(Version(v), asked))
        raise UserError(f"there is no timm release {release}: the nearest is timm=={nearest}")
    raise UserError(f"cannot fetch timm {release}, and it is not in the cache {cache_dir()}: {_NETWORK_HINT}")


def _distance(a: Version, b: Version) -> tuple[int, ...]:
    pad = [(*v.release, 0, 0, 0)[:3] for v in (a, b)]
    return tuple(abs(x - y) for x, y in zip(*pad))
