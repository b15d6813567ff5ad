"""Results as first-class values: NDJSON lines, one header a target, then witnesses, loads and verdicts, then a footer.

A file without its footer was cut off; what it holds still counts. Readers ignore line types they do not know. The JSON
Schema of a line is ``docs/results.schema.json``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..cases.case import Case

SCHEMA = 2

VerdictName = Literal["pass", "fail", "known", "fixed", "not-applicable", "error"]
# Verdicts, the most urgent first.
SEVERITY: tuple[VerdictName, ...] = ("fail", "fixed", "error", "known", "pass", "not-applicable")
REPLAYS = Literal["fails", "fixed", "not-applicable", "error"]
# Outcomes of a case that are a judgement; blocked and not applicable ones are none.
JUDGED = ("pass", "fail", "known")


class Header(msgspec.Struct, tag="header", tag_field="type", frozen=True):
    """What one worker ran: target, versions, shims in use, profile, families, and invariants with the regimes each must meet.

    ``focused`` says that every family drew a whole profile of cases; ``suite`` and ``source`` are digests of this suite
    with its ledger and of a checkout under test, so that a later run knows whether these results are still its own.
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
    schema: int = SCHEMA


class TargetError(msgspec.Struct, tag="target-error", tag_field="type", frozen=True):
    """A target that could not be judged at all, and why: it cannot be fetched or imported."""

    target: str
    reason: str


class Failure(msgspec.Struct, frozen=True):
    """One way an invariant fails. ``fingerprint`` is its identity; ``case`` the smallest one found that shows it.

    ``fraction`` is the error as a fraction of its bound, where one was compared with a bound; ``seed`` that of the draws
    that met it.
    """

    fingerprint: str
    kind: str
    tensor: str
    message: str
    case: Case
    count: int = 1
    fraction: float | None = None
    seed: int | None = None


class Verdict(msgspec.Struct, tag="verdict", tag_field="type", frozen=True, omit_defaults=True):
    """One family x invariant on one target.

    ``cases`` counts cases by outcome (pass, fail, known, blocked, not-applicable, error), ``regimes`` the judged cases by
    regime the invariant must meet (``any`` for all of them), ``known`` the cases by ledger entry; ``excused`` are regimes
    that no judged case is in, for a reason that is reported: the release does not know such cases, or another invariant
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


class Witness(msgspec.Struct, tag="witness", tag_field="type", frozen=True):
    """A stored witness replayed on a target; ``expected`` is False when the ledger says otherwise."""

    target: str
    id: str
    replay: REPLAYS
    expected: bool
    message: str = ""
    fraction: float | None = None


class LoadedCase(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a loader made of one case, small enough to keep.

    ``id`` is the case's own, the same in every release; ``ratio`` the model's patch side over the checkpoint's, ``error``
    the error of the patch kernel as a fraction of its bound (neither where the patch size is kept). ``deviations`` tells the
    tensors that differ from the reference's by more than their bound: in words (missing, another shape, what the load
    raised), or by their difference in units of the bound, projected on a few directions (``conformance/trials/deviations.py``).
    """

    id: str
    ratio: float | None = None
    error: float | None = None
    deviations: dict[str, str | list[float]] = {}


class Loads(msgspec.Struct, tag="loads", tag_field="type", frozen=True):
    """What a target made of a family's cases."""

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


class Progress(msgspec.Struct, tag="progress", tag_field="type", frozen=True):
    """A sign of life of a worker: cases judged so far. Not kept in merged results."""

    target: str
    family: str
    cases: int


class Round(msgspec.Struct, tag="round", tag_field="type", frozen=True):
    """One round of a hunt: ``cases`` drawn by ``seed``, counted on each target; ``whole`` unless the time ended it."""

    seed: int
    cases: int
    seconds: float
    whole: bool


class Footer(msgspec.Struct, tag="footer", tag_field="type", frozen=True):
    """The end of a complete file.

    ``shards`` names those it holds of a run that was shared out, none for a whole run; ``skipped`` is what was asked for
    where possible, and was not: a line each.
    """

    seconds: float
    exit_code: int = 0
    shards: list[str] = []
    skipped: list[str] = []


Record = Header | TargetError | Verdict | Witness | Loads | Change | Progress | Round | Footer

# What msgspec raises for bytes that are not what they should be: no JSON or another type, no text, nested too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """One NDJSON line."""
    return _encoder.encode(record) + b"\n"


def decode(lines: Iterable[bytes]) -> Iterator[Record]:
    """Records of the lines that are complete and of a known type."""
    for line in lines:
        try:
            yield _decoder.decode(line)
        except UNREADABLE:  # a line cut off by a crash, or of a later version
            continue


def read(path: Path) -> list[Record]:
    """All records of a file; a missing file has none."""
    return list(decode(path.read_bytes().splitlines())) if path.is_file() else []


class Results:
    """Records of one run, in order, with the questions reports ask."""

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
    def verdicts(self) -> list[Verdict]:
        """Every family x invariant x target."""
        return self._by_type.get(Verdict, [])

    @property
    def witnesses(self) -> list[Witness]:
        """Every replay."""
        return self._by_type.get(Witness, [])

    @property
    def loads(self) -> list[Loads]:
        """What every target made of every family's cases."""
        return self._by_type.get(Loads, [])

    @property
    def changes(self) -> list[Change]:
        """Every family x release whose tensors differ from those of the release before."""
        return self._by_type.get(Change, [])

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
        """Over all families: the cases an invariant really judged on a target, by regime, and the regimes it is excused from."""
        regimes, excused = Counter(), set()
        for verdict in self.of(target, invariant=invariant):
            regimes.update(verdict.regimes)
            excused.update(verdict.excused)
        return regimes, excused

    def write(self, path: Path) -> None:
        """Write all records but signs of life."""
        kept = [encode(r) for r in self.records if not isinstance(r, Progress)]
        path.write_bytes(b"".join(kept))
