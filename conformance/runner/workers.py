"""Starts worker processes, reads their records, and ends them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ..results import records
from ..results.records import Footer, Header, Record, Verdict, Witness
from ..targets.subprocess_call import environment, exit_reason
from . import forkserver
from .plan import Plan, Work

Process = subprocess.Popen[bytes] | forkserver.Forked


@dataclass
class Worker:
    target: str
    families: tuple[str, ...]
    process: Process
    path: Path
    log: Path
    deadline: float
    offset: int = 0
    started: bool = False
    finished: bool = False
    reason: str = ""
    invariants: int = 0
    cells: set[tuple[str, str]] = field(default_factory=set)
    replayed: set[str] = field(default_factory=set)

    def new_records(self) -> Iterator[Record]:
        """The records written since the last call. A line counts as read only when it is yielded."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                for record in records.decode([line]):
                    self._note(record)
                    yield record

    def _note(self, record: Record) -> None:
        if isinstance(record, Header):
            self.started = True
            self.invariants = len(record.invariants)
        elif isinstance(record, Verdict):
            self.cells.add((record.family, record.invariant))
        elif isinstance(record, Witness):
            self.replayed.add(record.id)
        elif isinstance(record, Footer):
            self.finished = True


class WorkerPool:
    """Starts workers: forked where forking is available, otherwise as new processes."""

    def __init__(self, plan: Plan, folder: Path, reports: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.reports = reports
        self.serial = itertools.count()
        self.environment = environment()
        self.cases = plan.cases or folder / "cases"
        self.cases.mkdir(parents=True, exist_ok=True)
        self.begun: set[str] = set()
        self.forkserver = forkserver.ForkServer(folder, self.environment) if forkserver.AVAILABLE else None

    def start(self, spec: str, families: tuple[str, ...]) -> Worker:
        """A worker that judges families of a target."""
        name = f"{next(self.serial):04}"
        report, log = self.reports / f"{os.getpid()}-{name}.ndjson", self.folder / f"{name}.log"
        work = self._work(spec, families, report)
        if self.forkserver is not None:
            process: Process = self.forkserver.start(name, work)
        else:
            command = [sys.executable, "-m", "timm_conformance.runner.worker", msgspec.json.encode(work).decode()]
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self.environment
                )
        return Worker(spec, families, process, report, log, time.monotonic() + self.plan.timeout)

    def _work(self, spec: str, families: tuple[str, ...], report: Path) -> Work:
        plan = self.plan
        # The first worker of a target replays all witnesses, so that known bugs show within seconds.
        replay = plan.families_of(spec) if plan.replay and spec not in self.begun else ()
        self.begun.add(spec)
        return Work(
            report=str(report),
            target=spec,
            selection=replace(plan.selection, families=families),
            cases=str(self.cases),
            witnesses=plan.witnesses,
            replay=replay,
            examples=str(plan.examples(spec)) if plan.examples else None,
            until=plan.until,
        )

    def close(self) -> None:
        """Close the pool; it starts no more workers."""
        if self.forkserver is not None:
            self.forkserver.close()


def _end_reason(worker: Worker) -> str:
    """The reason why a worker ended without a footer, in one line."""
    return exit_reason(worker.log.read_text(errors="replace"), worker.process.wait(), "crashed: the worker")
