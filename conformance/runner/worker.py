"""A worker: judges some families of one target in this process, and writes each record at once.

``python -m timm_conformance.runner.worker WORK`` takes a :class:`timm_conformance.runner.plan.Work` as JSON. It does not use
pytest: one pytest item for each family and invariant took a sixth of the time. A worker that cannot start writes the reason
as its last line of output, after ``ERROR:``.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import msgspec

from ..engine.session import Session
from ..errors import EXIT_EXPECTED, EXIT_USAGE, UserError, cannot_start
from ..results import records
from ..targets.target import parse_target
from .plan import Work

# A case leaves thousands of short-lived objects and few cycles, so the default threshold collects far too often.
COLLECT_AFTER = 50_000


def main(work: Work) -> int:
    """Do the work; returns the process's exit code."""
    cases, examples = (Path(folder) if folder else None for folder in (work.cases, work.examples))
    with open(work.report, "ab", buffering=0) as report:

        def record(one: records.Record) -> None:
            report.write(records.encode(one))  # at once: a crash loses nothing that was computed

        try:
            session = Session(
                parse_target(work.target),
                work.selection,
                witnesses=work.witnesses,
                cases=cases,
                until=work.until,
                examples=examples,
                record=record,
            )
            session.start()
        except Exception as error:
            print(f"ERROR: {cannot_start(error)}", flush=True)
            return EXIT_USAGE
        gc.freeze()  # objects that torch and timm made at import stay: collections need not visit them again
        gc.set_threshold(COLLECT_AFTER)
        for name in session.witnesses(work.replay) if work.replay else ():
            session.replay(name)
        for family in session.families if session.replaying is None else ():
            _explore(session, family)
            if session.drawing.over:
                break
        session.close()
    return EXIT_EXPECTED


def _explore(session: Session, family: str) -> None:
    """Judge one family. A mistake of the suite gives error verdicts for this family only."""
    try:
        session.explore(family)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        for invariant in session.invariants:
            session.record(records.Verdict(session.target.spec, family, invariant, "error", reason=reason))


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=Work)))
