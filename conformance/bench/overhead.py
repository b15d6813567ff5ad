"""Measures the cost of the harness: the gate on one target and one core, against a hand-written loop over the same cases.

Both are measured as whole processes, so both import torch and timm. The harness is the time of the gate minus that of the
loop: drawing by Hypothesis, the command line, the worker processes, ledger, counting, value changes, reports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from ..cases.profiles import profile
from ..drawing.drawing import Drawing
from ..errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_VACUOUS
from ..families import FAMILIES
from .loop import Answer, Request
from .part import Part
from .timing import Spent, Timed, in_turn, run

CORES = os.cpu_count() or 1
WANTED = 0.35
_VERDICTS = (EXIT_EXPECTED, EXIT_FAILURE, EXIT_VACUOUS)  # the benchmark accepts any verdict of the gate


def measure(target: str, families: Sequence[str], focused: bool, rounds: int, quick: bool) -> list[Part]:
    """The part about one target. ``focused``: the families were named, so that the gate draws more cases of each."""
    name = "smoke" if quick else "gate"
    with TemporaryDirectory(prefix="timm-conformance-") as scratch:
        folder = Path(scratch)
        started = Spent.now()
        for family in families:
            Drawing(profile(name), 0, focused, folder).cases(FAMILIES[family])
        drawing = Spent.now() - started
        asked, answered = folder / "request.json", folder / "answer.json"
        asked.write_bytes(msgspec.json.encode(Request(target, list(families), scratch)))
        named = [word for family in families for word in ("--family", family)] if focused else []
        inside: list[Spent] = []

        def gate() -> Spent:
            command = [
                "timm_conformance.cli.main",
                "run",
                target,
                "--jobs",
                "1",
                "--profile",
                name,
                "--out",
                str(folder / "gate"),
            ]
            return run([sys.executable, "-m", *command, *named], codes=_VERDICTS)

        def loop() -> Spent:
            spent = run([sys.executable, "-m", "timm_conformance.bench.loop", str(asked), str(answered)])
            inside.append(msgspec.json.decode(answered.read_bytes(), type=Answer).inside)
            return spent

        taken = in_turn({"gate": gate, "loop": loop}, rounds)
        done = msgspec.json.decode(answered.read_bytes(), type=Answer)
    return [_part(target, done, taken["gate"], taken["loop"], inside, drawing)]


def _part(target: str, done: Answer, gate: list[Spent], loop: list[Spent], inside: list[Spent], drawing: Spent) -> Part:
    harness = [whole - bare for whole, bare in zip(gate, loop)]
    rows = [
        _row("the gate, timm-conformance run --jobs 1", gate, gate),
        _row("a hand-written loop over the same cases", loop, gate),
        _row("  of it inside the loader and timm's models", inside, gate),
        _row("the harness: gate less loop", harness, gate),
        _row("  of it Hypothesis drawing, once a run", [drawing] * len(gate), gate),
    ]
    wall, cpu = rows[3]["wall"].ratio, rows[3]["processors"].ratio
    findings = [
        f"{target}: {done.cases} cases, {done.checks} invariants judged on them",
        f"harness: {wall:.0%} of the wall time, {cpu:.0%} of the processors' (wanted: at most {WANTED:.0%})",
        f"loader and timm's models: {rows[2]['wall'].ratio:.0%} of the gate's wall time; with the checks' own torch "
        f"arithmetic and the imports, which are the loop, {rows[1]['wall'].ratio:.0%}",
    ]
    return Part("overhead", "What the harness costs", rows, findings)


def _row(what: str, spent: list[Spent], gate: list[Spent]) -> dict:
    return {
        "what": what,
        "wall": Timed.of([s.wall for s in spent], [g.wall for g in gate]),
        "processors": Timed.of([s.cpu for s in spent], [g.cpu for g in gate]),
    }
