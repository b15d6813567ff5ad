"""A worker: judges some families of one target in this process, and reports as it goes.

``python -m conformance.worker REQUEST`` takes a JSON object: the ``report`` to append records to, the ``target``, the families
whose stored witnesses to ``replay`` first, and arguments of :class:`conformance.session.Session`. pytest has no part in it:
its items, one for each family and invariant, cost a sixth of the time. What keeps a worker from starting is its last line of
output, after ``ERROR:``.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

from . import results
from .errors import EXIT_EXPECTED, EXIT_USAGE, cannot_start
from .session import Session
from .targets import parse_target

# A case leaves thousands of short-lived objects and few cycles: the default is to look for those far too often.
COLLECT_AFTER = 50_000


def main(request: dict[str, Any]) -> int:
    """Do what is asked; returns the process's exit code."""
    folders = {name: Path(request[name]) for name in ("cases", "examples") if request.get(name)}
    with open(request["report"], "ab", buffering=0) as report:

        def record(one: results.Record) -> None:
            report.write(results.encode(one))  # at once: a crash loses nothing that was computed

        asked = {k: v for k, v in request.items() if k not in ("report", "target", "replay")} | folders
        try:
            session = Session(parse_target(request["target"]), record=record, **asked)
            session.start()
        except Exception as error:
            print(f"ERROR: {cannot_start(error)}", flush=True)
            return EXIT_USAGE
        gc.freeze()  # what torch and timm made at import stays: no collection need walk it again
        gc.set_threshold(COLLECT_AFTER)
        for name in session.witnesses(request["replay"]) if request["replay"] else ():
            session.replay(name)
        for family in session.families if session.replaying is None else ():
            _explore(session, family)
            if session.drawing.over:
                break
        session.close()
    return EXIT_EXPECTED


def _explore(session: Session, family: str) -> None:
    """Judge one family; a mistake of the suite costs that family, not the ones after it."""
    try:
        session.explore(family)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        for invariant in session.invariants:
            session.record(results.Verdict(session.target.spec, family, invariant, "error", reason=reason))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
