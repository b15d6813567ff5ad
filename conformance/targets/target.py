"""Targets: the small language that names the loader under test.

    timm==0.9.16                  a release, side-loaded into a cache
    path:DIR                      a checkout or unpacked wheel, DIR holding the package ``timm``
    installed                     the timm of this environment
    reference                     our own corrected loader
    loader:pkg.module:function    a user's ``function(checkpoint, model) -> state_dict``

``reference`` and ``loader:`` need destination models. By default these come from the newest release that the gate runs on.
A loader may name another timm, and imports it then: ``loader:pkg.module:function@installed``,
``loader:pkg.module:function@1.0.20``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from ..errors import UserError
from . import releases, torchvision_shim

DEFAULT_TARGETS = ("timm==0.9.16", "timm==1.0.31", "reference")
MODEL_RELEASE = "1.0.31"

_FORMS = "timm==VERSION, path:DIR, installed, reference, loader:MODULE:FUNCTION"


@dataclass(frozen=True)
class Target:
    """A parsed target. ``kind`` is timm, path, installed, reference or loader; ``value`` is the text after it.

    ``models`` names the timm that builds destination models for ``reference`` and ``loader``: a version, or ``installed``.
    """

    spec: str
    kind: str
    value: str = ""
    models: str = MODEL_RELEASE

    @property
    def is_timm(self) -> bool:
        """Whether timm's own loader is under test."""
        return self.kind in ("timm", "path", "installed")


def parse_target(spec: str) -> Target:
    """Parse one target. Raises :class:`UserError` for a malformed target and for a missing folder or package."""
    if spec in ("reference", "installed"):
        if spec == "installed":
            _need_installed(spec)
        return Target(spec, spec)
    if spec.startswith("timm=="):
        value = spec.removeprefix("timm==")
        _need_version(spec, value)
        return Target(spec, "timm", value)
    kind, _, value = spec.partition(":")
    if kind == "path" and value:
        if not (Path(value) / "timm" / "__init__.py").is_file():
            raise UserError(
                f"target {spec!r}: no timm/__init__.py under {value!r}; name the folder that holds the package timm"
            )
        return Target(spec, "path", str(Path(value).resolve()))
    if kind == "loader" and value:
        value, _, models = value.partition("@")
        module, _, function = value.partition(":")
        if not (module and function.isidentifier()):
            raise UserError(f"target {spec!r}: write loader:package.module:function")
        return loader_target(value, models or MODEL_RELEASE)
    raise UserError(f"unknown target {spec!r}: targets are {_FORMS}")


def loader_target(value: str, models: str) -> Target:
    """A ``loader:`` target whose destination models come from the timm ``models``. Raises :class:`UserError`."""
    spec = f"loader:{value}" if models == MODEL_RELEASE else f"loader:{value}@{models}"
    if models == "installed":
        _need_installed(spec)
    else:
        _need_version(spec, models)
    return Target(spec, "loader", value, models)


def timm_is_installed() -> bool:
    """Whether this environment has a timm of its own, or one is imported already."""
    return importlib.util.find_spec("timm") is not None


def _need_installed(spec: str) -> None:
    if not timm_is_installed():
        raise UserError(f"target {spec!r}: no timm in this environment; install it or name a release, timm==VERSION")


def _need_version(spec: str, value: str) -> None:
    try:
        Version(value)
    except InvalidVersion:
        raise UserError(f"target {spec!r}: {value!r} is no version; write for example timm==1.0.31") from None


def prepare(target: Target) -> None:
    """Download the releases that a target needs and that are not cached. Raises :class:`UserError`."""
    if target.kind == "timm":
        releases.ensure(target.value)
    elif not target.is_timm and target.models != "installed":
        releases.ensure(target.models)


def folder_of(target: Target) -> Path | None:
    """The folder to import timm from; None for the environment's own timm."""
    if "installed" in (target.kind, target.models):
        return None
    if target.kind == "path":
        return Path(target.value)
    return releases.ensure(target.value if target.kind == "timm" else target.models)


def activate(target: Target) -> str:
    """Make ``import timm`` import the target's timm in this process; return its version.

    Raises :class:`UserError` if another timm is imported already.
    """
    folder = folder_of(target)
    if "timm" not in sys.modules and folder is not None:
        sys.path.insert(0, str(folder))
    torchvision_shim.install()
    timm: Any = importlib.import_module("timm")
    # A target that needs timm for its models only accepts any copy of that version.
    enough = not target.is_timm and timm.__version__ == target.models
    if folder is not None and not enough and folder.resolve() not in Path(timm.__file__).resolve().parents:
        hint = (
            f"loader:{target.value}@installed judges with it" if target.kind == "loader" else "give it its own process"
        )
        raise UserError(f"target {target.spec!r}: another timm, {timm.__version__}, is imported already; {hint}")
    return timm.__version__
