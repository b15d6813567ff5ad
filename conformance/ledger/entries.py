"""The ledger of known bugs of timm: what fails, in which families and releases, why, and the witness that shows it.

An entry covers only failures of its families, with its signature (``invariant:kind:tensor``), inside its regime and its
release range. Every other failure is a new failure.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ..cases.fixtures import FIXTURES
from ..errors import UserError, unknown
from ..probes.registry import probe_names, source_of
from ..results.records import UNREADABLE
from .witnesses import WITNESSES, WitnessFile, read_witness

DEFAULT_LEDGER = FIXTURES / "ledger.toml"
# Scripts that show an entry's bug, by its id.
REPRODUCERS = FIXTURES / "reproducers"


class Entry(msgspec.Struct, frozen=True, dict=True, forbid_unknown_fields=True):
    """One known bug.

    kind         bug, limitation (timm documents it, or nobody promises it) or dependency (another library is at fault)
    releases     the timm releases that have it, as a version specifier; empty for a dependency that no release meets
    families     families it shows in; ``*`` matches any text, ``!name`` takes a family out again
    since        for some of the families, the first release of the range in which they show it
    shows        signatures ``invariant:kind:tensor`` of its failures; ``*`` and ``?`` match any text
    regime       classes of cases that show it, one of which must hold; ``a & b`` demands both, ``!a`` its absence
    pinned       whether every profile judges the witness, since its draws hardly ever meet such a case
    probe        for a dependency: the probe that shows whether the installed library has the fault
    view_of      the entry that has the same cause, if another invariant shows it
    explanation  two sentences: what happens, and why
    """

    id: str
    kind: Literal["bug", "limitation", "dependency"]
    title: str
    families: list[str]
    shows: list[str]
    regime: list[str]
    explanation: str
    releases: str = ""
    link: str = ""
    probe: str = ""
    view_of: str = ""
    since: dict[str, str] = {}
    pinned: bool = False

    @cached_property
    def range(self) -> SpecifierSet:
        """``releases``, parsed."""
        return SpecifierSet(self.releases, prereleases=True)

    @property
    def script(self) -> Path | None:
        """A stored script that shows it: the probe of a dependency's fault, otherwise one of the reproducers, if there is one."""
        path = source_of(self.probe) if self.probe else REPRODUCERS / f"{self.id}.py"
        return path if path.is_file() else None

    def applies_to(self, release: Version | None, faults: Container[str] = ()) -> bool:
        """Whether a release has this bug, or with None, whether a loader that is not timm's may show it.

        ``faults`` names the probes that found a fault. A fault of a dependency shows only where its probe found it. It may
        show in every loader that uses the library. Bugs and limitations are timm's alone.
        """
        if self.probe and self.probe not in faults:
            return False
        return bool(self.probe) if release is None else self.names(release)

    def names(self, release: Version) -> bool:
        """Whether ``releases`` contains a release."""
        return bool(self.releases) and self.range.contains(release, prereleases=True)

    def on(self, release: Version) -> Entry:
        """The entry as it is on a release of its range: without the families that show it only ``since`` a later one."""
        later = [f"!{family}" for family, first in self.since.items() if release < Version(first)]
        return replace(self, families=[*self.families, *later]) if later else self

    def concerns(self, family: str) -> bool:
        """Whether the entry names a family; among several patterns the last that matches decides."""
        named = [not pattern.startswith("!") for pattern in self.families if fnmatchcase(family, pattern.lstrip("!"))]
        return bool(named) and named[-1]

    def claims(self, family: str, invariant: str) -> bool:
        """Whether the entry says that this invariant fails for this family."""
        return self.concerns(family) and any(fnmatchcase(invariant, s.split(":")[0]) for s in self.shows)

    def covers(self, family: str, invariant: str, kind: str, tensor: str, regimes: frozenset[str]) -> bool:
        """Whether a failure belongs to this entry."""
        signature = f"{invariant}:{kind}:{tensor}"
        return (
            self.concerns(family)
            and any(fnmatchcase(signature, pattern) for pattern in self.shows)
            and self.meets(regimes)
        )

    def meets(self, regimes: frozenset[str]) -> bool:
        """Whether a case of these regimes can show the bug."""
        return bool(self.conditions(regimes))

    def conditions(self, regimes: frozenset[str]) -> list[str]:
        """The conditions of ``regime`` that hold for a case of these regimes."""
        return [condition for condition in self.regime if _holds(condition, regimes)]


def first_covering(
    entries: Iterable[Entry], family: str, invariant: str, problem: tuple[str, str], regimes: frozenset[str]
) -> Entry | None:
    """The entry that a failure belongs to: the first in the ledger's order that covers it; ``problem`` is its kind and tensor."""
    return next((entry for entry in entries if entry.covers(family, invariant, *problem, regimes)), None)


def _terms(condition: str) -> list[tuple[bool, str]]:
    parts = [part.strip() for part in condition.split("&")]
    return [(not part.startswith("!"), part.lstrip("! ")) for part in parts]


def _holds(condition: str, regimes: frozenset[str]) -> bool:
    return all((name == "any" or name in regimes) is wanted for wanted, name in _terms(condition))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entry: list[Entry] = []
    schema: int = 1


class Ledger:
    """Entries with their witnesses."""

    def __init__(self, entries: Iterable[Entry] = (), witnesses: dict[str, WitnessFile] | None = None) -> None:
        self.entries = list(entries)
        self.witnesses = witnesses or {}

    def active(self, release: Version | None, faults: Container[str] = ()) -> list[Entry]:
        """The entries that apply to a release, or with None, to a loader that is not timm's (:meth:`Entry.applies_to`).

        They name the families that show them there. A loader that is not timm's may meet a fault of a dependency in any family,
        whichever families timm meets it in.
        """
        found = [e for e in self.entries if e.applies_to(release, faults)]
        return [replace(e, families=["*"]) if release is None else e.on(release) for e in found]

    def entry(self, entry_id: str) -> Entry | None:
        """The entry with this id."""
        return next((e for e in self.entries if e.id == entry_id), None)

    def witness(self, name: str) -> WitnessFile:
        """The witness of the entry with this id, or in the file of this name. Raises :class:`UserError`."""
        return self.witnesses.get(name) or read_witness(Path(name))


def load_ledger(path: str | Path) -> Ledger:
    """Read a ledger and the witnesses beside it (``witnesses/ID.json``). ``none`` is the empty ledger.

    Raises :class:`UserError`, in one line, for a file that cannot be read or an entry that is not valid.
    """
    if str(path) == "none":
        return Ledger()
    path = Path(path)
    try:
        entries = msgspec.toml.decode(path.read_bytes(), type=_File).entry
    except OSError as error:
        raise UserError(
            f"ledger {path}: {error.strerror or error}; name another with --ledger FILE, or --ledger none"
        ) from None
    except UNREADABLE as error:
        raise UserError(f"ledger {path} cannot be read: {error}") from None
    witnesses = {}
    for entry in entries:
        _lint(entry, path)
        witnesses[entry.id] = read_witness(path.parent / WITNESSES / f"{entry.id}.json")
    ids = [e.id for e in entries]
    lost = next((e for e in entries if e.view_of and e.view_of not in ids), None)
    if lost:
        raise UserError(f"ledger {path}, entry {lost.id!r}: view_of = {lost.view_of!r} is no entry")
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise UserError(f"ledger {path}: entry {twice[0]!r} appears twice")
    return Ledger(entries, witnesses)


def _lint(entry: Entry, path: Path) -> None:
    from ..families import FAMILIES

    where = f"ledger {path}, entry {entry.id!r}"
    try:
        impossible = SpecifierSet(entry.releases).is_unsatisfiable()
    except InvalidSpecifier:
        raise UserError(
            f"{where}: releases = {entry.releases!r} is no version range; write for example '>=0.9.0,<1.0.3'"
        ) from None
    if impossible:
        raise UserError(f"{where}: no version can satisfy releases = {entry.releases!r}")
    if entry.kind == "dependency":
        if entry.probe not in probe_names():
            raise UserError(f"{where}: {unknown('probe', entry.probe, probe_names())}")
    elif entry.probe or not entry.releases:
        raise UserError(f"{where}: a {entry.kind} needs releases, and no probe")
    strange = [
        f for f in (*entry.families, *entry.since) if not any(fnmatchcase(name, f.lstrip("!")) for name in FAMILIES)
    ]
    if strange or not entry.families:
        raise UserError(f"{where}: " + (f"unknown family {strange[0]!r}" if strange else "names no family"))
    outside = [first for first in entry.since.values() if not _is_version(first) or not entry.names(Version(first))]
    if outside:
        raise UserError(f"{where}: since has {outside[0]!r}, which is no release of {entry.releases}")
    bad = [s for s in entry.shows if s.count(":") < 2]
    if bad or not entry.shows or not entry.regime:
        raise UserError(f"{where}: needs shows = ['invariant:kind:tensor', ...] and regime = [...]")


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
