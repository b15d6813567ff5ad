"""The records of a run, as lines of NDJSON: a header for each target, then witnesses, loads and verdicts, then a footer.

A file without a footer was cut off; its records still count. Readers ignore line types that they do not know. The JSON
Schema of a line is ``docs/results.schema.json``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..cases.case import Case
from ..probes.registry import ProbeAnswer
from .writing import write_whole

SCHEMA = 2

VerdictName = Literal["pass", "fail", "known", "fixed", "not-applicable", "error"]
# Verdicts, the most urgent first.
SEVERITY: tuple[VerdictName, ...] = ("fail", "fixed", "error", "known", "pass", "not-applicable")
REPLAYS = Literal["fails", "fixed", "not-applicable", "error"]
# The outcomes of a case that are judgements. Blocked and not applicable are not.
JUDGED = ("pass", "fail", "known")


class Header(msgspec.Struct, tag="header", tag_field="type", frozen=True):
    """What one worker ran: target, versions, shims in use, profile, families, and invariants with the regimes each must meet.

    ``focused`` says that every family drew a whole profile of cases. ``suite`` is a digest of this suite with its ledger,
    ``source`` one of a checkout under test. By these a later run decides whether the results are still valid. ``probes`` says
    which known faults the installed libraries have.
    """

    target: str
    timm: str
    python: str
    torch: str
    platform: str
    device: str
    shims: list[str]
    profile: str
    seed: int
    families: list[str]
    invariants: dict[str, list[str]]
    focused: bool = False
    suite: str = ""
    source: str = ""
    probes: list[ProbeAnswer] = []
    schema: int = SCHEMA


class TargetError(msgspec.Struct, tag="target-error", tag_field="type", frozen=True):
    """A target that could not be judged at all, and the reason, for example that it cannot be fetched or imported."""

    target: str
    reason: str


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a failure's report says beside its message.

    ``meaning`` is the statement of the invariant. ``file`` and ``call`` say in words what was asked. ``numbers`` are two lines,
    an excerpt of what was expected and of what was got around the worst element. ``diagnosis`` is the one transformation of the
    expected tensor that gives what was got, empty where none of those tried does.
    """

    meaning: str = ""
    file: str = ""
    call: str = ""
    numbers: list[str] = []
    diagnosis: str = ""


class Failure(msgspec.Struct, frozen=True):
    """One way in which an invariant fails. ``fingerprint`` is its identity, ``case`` the smallest case found that shows it.

    ``fraction`` is the error as a fraction of its bound, if an error was compared with a bound. ``seed`` is the seed of the
    draws that found the failure. ``same_as`` says, of a failure of a user's loader, that timm fails in the same way on the
    case, and names the ledger entry. ``shrunk`` says whether a smaller case was looked for.
    """

    fingerprint: str
    kind: str
    tensor: str
    message: str
    case: Case
    count: int = 1
    fraction: float | None = None
    seed: int | None = None
    same_as: str = ""
    explanation: Explanation = Explanation()
    shrunk: bool = False


class Verdict(msgspec.Struct, tag="verdict", tag_field="type", frozen=True, omit_defaults=True):
    """One family x invariant on one target.

    ``cases`` counts the drawn cases by outcome (pass, fail, known, blocked, not-applicable, error), ``sought`` those that were
    judged beside them to meet a regime. ``regimes`` counts the judged cases of both by regime that the invariant must meet
    (``any`` for all of them), ``known`` the drawn cases by ledger entry. ``excused`` are
    regimes without a judged case for a reported reason: the release does not support such cases, or another invariant
    fails on them. ``worst`` is the largest error of a passing comparison as a fraction of its bound.
    """

    target: str
    family: str
    invariant: str
    verdict: VerdictName
    cases: dict[str, int] = {}
    regimes: dict[str, int] = {}
    excused: list[str] = []
    known: dict[str, int] = {}
    failures: list[Failure] = []
    worst: float | None = None
    reason: str = ""
    sought: dict[str, int] = {}


class Witness(msgspec.Struct, tag="witness", tag_field="type", frozen=True):
    """A stored witness replayed on a target; ``expected`` is False when the ledger says otherwise."""

    target: str
    id: str
    replay: REPLAYS
    expected: bool
    message: str = ""
    fraction: float | None = None

    @property
    def remark(self) -> str:
        """What the outcome means; empty where it goes without saying. The ledger says nothing of a function under test."""
        if self.target.startswith("loader:"):
            return "a fault of a library explains it" if self.replay == "fails" and self.expected else ""
        return "as the ledger says" if self.expected else "not as the ledger says"


class LoadedCase(msgspec.Struct, frozen=True, omit_defaults=True):
    """A summary of what a loader loaded from one case.

    ``id`` identifies the case and is the same in every release. ``ratio`` is the model's patch side over the checkpoint's,
    ``error`` the error of the patch kernel as a fraction of its bound; both are absent if the patch size does not change.
    ``deviations`` are the tensors that differ from the reference's by more than their bound. The value is a text (missing,
    another shape, what the load raised), or the difference in units of the bound, projected on a few directions
    (``conformance/trials/deviations.py``).
    """

    id: str
    ratio: float | None = None
    error: float | None = None
    deviations: dict[str, str | list[float]] = {}


class Loads(msgspec.Struct, tag="loads", tag_field="type", frozen=True):
    """What a target loaded from a family's cases."""

    target: str
    family: str
    cases: list[LoadedCase]


class Change(msgspec.Struct, tag="change", tag_field="type", frozen=True):
    """A family whose loaded tensors differ from those of the release before by more than their bound, pass or fail.

    ``cases`` of the ``compared`` ones differ; ``largest`` is the largest root mean square difference in units of the
    bound, None where a tensor is missing, of another shape, or the load raises on one side.
    """

    target: str
    previous: str
    family: str
    compared: int
    cases: int
    tensors: list[str]
    largest: float | None = None


class Cause(msgspec.Struct, tag="cause", tag_field="type", frozen=True):
    """Failures of a target with one cause, by fingerprint, the clearest first.

    ``script`` is the text of a standalone script that reproduces them; empty where no checkpoint of plain numbers shows them.
    """

    target: str
    failures: list[str]
    script: str = ""


class Progress(msgspec.Struct, tag="progress", tag_field="type", frozen=True):
    """The number of cases that a worker has judged so far. Merged results do not contain it."""

    target: str
    family: str
    cases: int


class Round(msgspec.Struct, tag="round", tag_field="type", frozen=True):
    """One round of a hunt: ``cases`` drawn with ``seed``, counted on each target. ``whole`` is False if the time ended it."""

    seed: int
    cases: int
    seconds: float
    whole: bool


class Footer(msgspec.Struct, tag="footer", tag_field="type", frozen=True):
    """The end of a complete file.

    ``shards`` names the shards that the file holds; it is empty for a whole run. ``skipped`` has a line for each thing that
    was requested only if possible, and was not possible.
    """

    seconds: float
    exit_code: int = 0
    shards: list[str] = []
    skipped: list[str] = []


Record = Header | TargetError | Verdict | Witness | Loads | Change | Cause | Progress | Round | Footer

# What msgspec raises for bytes that cannot be decoded: no JSON, another type, no text, or nested too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """One NDJSON line."""
    return _encoder.encode(record) + b"\n"


def decode(lines: Iterable[bytes]) -> Iterator[Record]:
    """The records of all lines that are complete and of a known type."""
    for line in lines:
        try:
            yield _decoder.decode(line)
        except UNREADABLE:  # a line cut off by a crash, or of a later version
            continue


def read(path: Path) -> list[Record]:
    """All records of a file; a missing file has none."""
    return list(decode(path.read_bytes().splitlines())) if path.is_file() else []


class Results:
    """The records of one run, in order, with the queries that reports need."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records: list[Record] = []
        self._by_type: dict[type, list[Any]] = {}
        self._cells: dict[str, dict[str, list[Verdict]]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Append a record."""
        self.records.append(record)
        self._by_type.setdefault(type(record), []).append(record)
        if isinstance(record, Verdict):
            self._cells.setdefault(record.target, {}).setdefault(record.family, []).append(record)

    @property
    def headers(self) -> list[Header]:
        """One header a target that started."""
        return self._by_type.get(Header, [])

    @property
    def probes(self) -> list[ProbeAnswer]:
        """The different answers of probes, in order of appearance."""
        return list(dict.fromkeys(answer for header in self.headers for answer in header.probes))

    @property
    def verdicts(self) -> list[Verdict]:
        """Every family x invariant x target."""
        return self._by_type.get(Verdict, [])

    @property
    def witnesses(self) -> list[Witness]:
        """Every replay."""
        return self._by_type.get(Witness, [])

    @property
    def loads(self) -> list[Loads]:
        """What every target loaded from every family's cases."""
        return self._by_type.get(Loads, [])

    @property
    def changes(self) -> list[Change]:
        """Every family x release whose tensors differ from those of the release before."""
        return self._by_type.get(Change, [])

    @property
    def causes(self) -> list[Cause]:
        """The groups of new failures that were found."""
        return self._by_type.get(Cause, [])

    @property
    def rounds(self) -> list[Round]:
        """The rounds of a hunt; none of any other run."""
        return self._by_type.get(Round, [])

    @property
    def errors(self) -> dict[str, str]:
        """Targets that could not be judged at all, with the reason."""
        return {r.target: r.reason for r in self._by_type.get(TargetError, [])}

    @property
    def footers(self) -> list[Footer]:
        """The footer, if the file is complete."""
        return self._by_type.get(Footer, [])

    @property
    def targets(self) -> list[str]:
        """Every target, in order of appearance."""
        named = (r for r in self.records if isinstance(r, Header | TargetError | Verdict | Witness))
        return list(dict.fromkeys(r.target for r in named))

    @property
    def families(self) -> list[str]:
        """Every family with a verdict, in order of appearance."""
        return list(dict.fromkeys(v.family for v in self.verdicts))

    def of(self, target: str, family: str | None = None, invariant: str | None = None) -> list[Verdict]:
        """Verdicts of a target, optionally of one family or invariant."""
        by_family = self._cells.get(target, {})
        chosen = by_family.values() if family is None else [by_family.get(family, [])]
        return [v for verdicts in chosen for v in verdicts if invariant in (None, v.invariant)]

    def met(self, target: str, invariant: str) -> tuple[Counter[str], set[str]]:
        """Over all families: the cases that an invariant judged on a target, by regime, and the regimes it is excused from."""
        regimes: Counter[str] = Counter()
        excused: set[str] = set()
        for verdict in self.of(target, invariant=invariant):
            regimes.update(verdict.regimes)
            excused.update(verdict.excused)
        return regimes, excused

    def write(self, path: Path) -> None:
        """Write all records except :class:`Progress`; the file is whole or as it was."""
        kept = [encode(r) for r in self.records if not isinstance(r, Progress)]
        write_whole(path, b"".join(kept))
