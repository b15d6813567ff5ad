"""The environments of ``environments.toml``."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATH = Path(__file__).with_name("environments.toml")


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One environment; the file's first lines say what each field means. ``shim`` is None where it may be in use or not."""

    name: str
    python: str
    packages: list[str]
    about: str
    constraints: bool = True
    upgrade: bool = False
    shim: bool | None = None


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file: the tests that run everywhere, and the environments, the baseline first."""

    core: list[str]
    environment: list[Environment]


def load() -> Matrix:
    """The file, checked."""
    return msgspec.convert(tomllib.loads(PATH.read_text(encoding="utf-8")), Matrix)
