"""Short digests of what results depend on: with equal digests, a run would give the same results again."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path

from .. import reference
from ..drawing import catalogue
from ..errors import UserError
from ..ledger.witnesses import WITNESSES
from ..targets.target import parse_target

_PACKAGE = Path(__file__).resolve().parent.parent
_REFERENCE = Path(reference.__file__).resolve().parent
_LIBRARIES = ("torch", "torchvision", "numpy", "hypothesis", "safetensors", "huggingface_hub")


def _digest(parts: Iterable[bytes]) -> str:
    whole = sha1()
    for part in parts:
        whole.update(sha1(part).digest())
    return whole.hexdigest()[:12]


def suite_digest(ledger: str | Path) -> str:
    """The digest of this suite, its ledger and witnesses, Python and the libraries that it uses."""
    # In a wheel the reference lies inside the package, in a checkout beside it.
    files = {catalogue.PATH, *(p for folder in (_PACKAGE, _REFERENCE) for p in folder.rglob("*.py"))}
    if str(ledger) != "none":
        path = Path(ledger)
        files |= {path, *(path.parent / WITNESSES).glob("*.json")}
    versions = [platform.python_version(), *map(_version, _LIBRARIES)]
    return _digest([*(v.encode() for v in versions), *(p.read_bytes() for p in sorted(files))])


def source_digest(spec: str) -> str | None:
    """The digest of a target whose code may change under its name: empty for a release, None where it is not known."""
    try:
        target = parse_target(spec)
    except UserError:
        return None
    if target.kind in ("timm", "reference"):  # the reference is part of the suite
        return ""
    if target.kind == "path":
        return _digest(p.read_bytes() for p in sorted((Path(target.value) / "timm").rglob("*.py")))
    return f"timm {_version('timm')}" if target.kind == "installed" else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
