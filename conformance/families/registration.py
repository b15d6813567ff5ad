"""What the registries ask of a module and of a family. Each mistake is one line: where it is, what is missing, what to write."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from hypothesis.strategies import SearchStrategy
from packaging.version import InvalidVersion, Version

from ..cases.case import CONTAINERS, NPZ
from ..errors import UserError, one_line
from .base import Family

# Options that every architecture has, whatever else a family's own functions need.
OPTIONS = ("num_heads", "num_classes")
_FUNCTIONS = ("shapes", "num_prefix_tokens", "model_kwargs")


def import_part(name: str) -> ModuleType:
    """Import a module of a registry. What it raises becomes a :class:`UserError` that names the module and the line."""
    try:
        return importlib.import_module(name)
    except (ImportError, UserError):
        raise
    except Exception as error:
        path = f"{name.partition('.')[2].replace('.', '/')}.py"
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.replace("\\", "/").endswith(path)
        ]
        where = f"conformance/{path}" + (f", line {lines[-1]}" if lines else "")
        raise UserError(f"{where}: {type(error).__name__}: {one_line(error)}") from error


def families_of(module: ModuleType) -> tuple[Family, ...]:
    """The families that a module defines in ``FAMILIES``. Raises :class:`UserError` if it makes one and leaves it out."""
    path = f"conformance/families/{module.__name__.rpartition('.')[2]}.py"
    listed = getattr(module, "FAMILIES", None)
    made = [name for name, value in vars(module).items() if isinstance(value, Family) and name != "FAMILIES"]
    if listed is None and made:
        raise UserError(f"{path} has no FAMILIES: end it with FAMILIES = ({', '.join(made)},)")
    if isinstance(listed, Family) or not all(isinstance(family, Family) for family in listed or ()):
        raise UserError(f"{path}: FAMILIES is no tuple of families: write FAMILIES = ({', '.join(made)},)")
    for family in listed or ():
        fault = next(_faults(family), None)
        if fault:
            raise UserError(f"family {family.name!r} in {path}: {fault}")
    return tuple(listed or ())


def _faults(family: Any) -> Iterator[str]:
    """What is wrong with the fields that every family must give, and with the names it chooses from."""
    if not family.name.isidentifier():
        yield "name is not a word of letters, digits and underscores"
    if not family.source:
        yield "source is empty; give the upstream repository and file"
    yield from _release_faults(family)
    if not isinstance(family.architectures, SearchStrategy):
        yield "architectures is no Hypothesis strategy; write for example vit.architectures(...)"
    for name in _FUNCTIONS:
        if not callable(getattr(family, name)):
            yield f"{name} is no function; conformance/families/base.py says what it returns"
    for name in ("models", "not_models", "wrappers", "containers", "filters"):
        if not isinstance(getattr(family, name), tuple):
            yield f"{name} is no tuple; write {name}=({getattr(family, name)!r},)"
    for name in ("models", "wrappers", "containers", "filters"):
        if not getattr(family, name):
            yield f"{name} is empty; conformance/families/base.py says what it lists"
    strange = [name for name in family.containers if name not in (*CONTAINERS, *NPZ)]
    if strange:
        yield f"containers has {strange[0]!r}; known are {', '.join((*CONTAINERS, *NPZ))}"
    for name, known in (("square_patch", ("", "always", "resampled")), ("square_grids", ("", "always", "often"))):
        if getattr(family, name) not in known:
            yield f"{name} is {getattr(family, name)!r}; known are {', '.join(map(repr, known))}"
    for wrapper in family.wrapper_since:
        if wrapper not in family.wrappers:
            yield f"wrapper_since has {wrapper!r}, which is not in wrappers"


def _release_faults(family: Any) -> Iterator[str]:
    says = {"known_since": "some code takes the format", "complete_since": "the format is converted in full"}
    for name, what in says.items():
        try:
            Version(getattr(family, name) or family.known_since)
        except InvalidVersion:
            yield f"{name} {getattr(family, name)!r} is no version; give the first timm release in which {what}"
            return
    if Version(family.first_complete) < Version(family.known_since):
        yield f"complete_since {family.complete_since} is earlier than known_since {family.known_since}"


def check_names(families: Mapping[str, Family]) -> None:
    """Raise :class:`UserError` if a family names another one, as ``classic``, that does not exist."""
    for family in families.values():
        if family.classic and family.classic not in families:
            raise UserError(f"family {family.name!r}: classic is {family.classic!r}, which is no family")


def check_arch(family: Family, arch: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` if an architecture lacks an option that the suite itself reads."""
    for option in OPTIONS:
        if option not in arch:
            raise UserError(f"family {family.name!r}: architectures draws no {option!r}; it draws {', '.join(arch)}")


def of_arch(family: Family, field: str, arch: Mapping[str, Any], *more: Any) -> Any:
    """What a function of a family makes of ``arch``. Raises :class:`UserError` for an option that ``arch`` does not have."""
    try:
        return getattr(family, field)(arch, *more)
    except KeyError as error:
        raise UserError(
            f"family {family.name!r}: {field} needs the option {error.args[0]!r}, which its architectures do not draw; "
            f"they draw {', '.join(arch)}"
        ) from error
