"""Mutants that change nothing an invariant is about, each with the argument why: ``fixtures/equivalents.toml``.

An entry names a function, the text of the changed lines, and the text they become; ``*`` stands for any text. It holds for every
release that has these lines, or for the releases that it names. If a line occurs several times in a function, ``under`` names
the line above it. An entry that an invariant refutes is reported.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from ..errors import UserError
from ..ledger.entries import DEFAULT_LEDGER
from .score import Mutant

PATH = DEFAULT_LEDGER.parent / "equivalents.toml"


class Equivalent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Mutants of ``functions`` that turn lines ``before`` into one of ``after`` (any), and ``why`` this changes nothing.

    ``under`` are lines of which one must be the line above (default: any); ``releases`` is a version specifier (default: all).
    """

    functions: list[str]
    before: list[str]
    why: str
    after: list[str] = []
    under: list[str] = []
    releases: str = ""

    @cached_property
    def _patterns(self) -> tuple[re.Pattern, ...]:
        return tuple(map(_pattern, (self.functions, self.before, self.after or ["*"], self.under or ["*"])))

    def covers(self, mutant: Mutant) -> bool:
        """Whether it is about this mutant."""
        texts = (mutant.function, mutant.before, mutant.after, mutant.under)
        return all(p.fullmatch(text) for p, text in zip(self._patterns, texts))


def _pattern(globs: list[str]) -> re.Pattern:
    return re.compile("|".join(".*".join(map(re.escape, glob.split("*"))) for glob in globs))


def load(path: Path = PATH, release: Version | None = None) -> list[Equivalent]:
    """The entries that hold for ``release``. Raises :class:`UserError` for a list that cannot be read."""
    try:
        entries = msgspec.toml.decode(path.read_bytes(), type=dict[str, list[Equivalent]]).get("equivalent", [])
        ranges = [SpecifierSet(entry.releases) for entry in entries]
    except (OSError, msgspec.DecodeError, InvalidSpecifier) as error:
        raise UserError(f"list of equivalent mutants {path}: {error}") from None
    vain = [e for e in entries if not (e.functions and e.before and e.why.strip())]
    if vain:
        raise UserError(f"list of equivalent mutants {path}: an entry of {vain[0].functions} has no before or no why")
    return [
        e for e, admitted in zip(entries, ranges) if release is None or admitted.contains(release, prereleases=True)
    ]


def reason(mutant: Mutant, entries: list[Equivalent]) -> str:
    """The reason why a mutant is equivalent; empty if no entry covers it."""
    return next((e.why for e in entries if e.covers(mutant)), "")
