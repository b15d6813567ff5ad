"""Worker processes judge targets side by side; what they report is gathered, what they fail to report is an error.

A worker judges some families of one target. Where processes can be forked, one that has imported everything but timm forks
them all; a worker then starts within a second, and targets are shared out finely enough that no core idles.
What a worker reports goes at once to a file of its own, so that a run that was cut off can be gone on with.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import results, targets, zygote
from .asking import environment, last_words
from .errors import UserError
from .results import Footer, Header, Record, Results, TargetError, Verdict, Witness
from .sharding import weight

_POLL = 0.05
# The reason of what an interrupt kept from being judged.
INTERRUPTED = "interrupted"
# Workers for each core, where a worker is cheap: the more there are, the more evenly they end.
_SHARES = 4


@dataclass(frozen=True)
class Plan:
    """What to run.

    ``shares`` gives some targets other ``families`` than the rest: those of a shard, or those still to be judged. No
    ``invariants`` mean all; ``witnesses`` given means replay only those; ``focused`` draws a whole profile of cases for each
    family, however much of its code path others share. ``parts`` is the folder for what workers report, by default one
    that is gone afterwards; ``examples`` tells the folder of further witnesses to replay on a target. Without ``replay`` no
    stored witness is replayed. ``until`` is the time, as ``time.time()`` tells it, after which workers that have judged
    something begin nothing more, and no further one is started: what was not begun is no error.
    """

    targets: tuple[str, ...]
    families: tuple[str, ...]
    invariants: tuple[str, ...]
    profile: str = "gate"
    seed: int = 0
    device: str = "cpu"
    ledger: str | None = None
    witnesses: tuple[str, ...] | None = None
    jobs: int = 2
    focused: bool = False
    timeout: float = 300.0
    shares: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Path | None = None
    examples: Callable[[str], Path] | None = None
    replay: bool = True
    until: float | None = None

    @property
    def over(self) -> bool:
        """Whether the time given to this plan is over."""
        return self.until is not None and time.time() >= self.until

    def families_of(self, target: str) -> tuple[str, ...]:
        """The families to judge on a target."""
        return self.shares.get(target, self.families)


@dataclass
class _Worker:
    target: str
    families: tuple[str, ...]
    process: subprocess.Popen | zygote.Forked
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

    def fresh(self) -> Iterator[Record]:
        """Records written since the last look; a line counts as read only when it is handed out."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                for record in results.decode([line]):
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


class _Crew:
    """Starts workers: forked ones where that works, else each a process of its own."""

    def __init__(self, plan: Plan, folder: Path, reports: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.reports = reports
        self.serial = itertools.count()
        self.environment = environment()
        self.cases = folder / "cases"
        self.cases.mkdir()
        self.begun: set[str] = set()
        self.zygote = zygote.Zygote(folder, self.environment) if zygote.AVAILABLE else None

    def start(self, spec: str, families: tuple[str, ...]) -> _Worker:
        """A worker that judges families of a target."""
        name = f"{next(self.serial):04}"
        report, log = self.reports / f"{os.getpid()}-{name}.ndjson", self.folder / f"{name}.log"
        work = self._work(spec, families, report)
        if self.zygote is not None:
            process = self.zygote.start(name, work)
        else:
            command = [sys.executable, "-m", "conformance.worker", json.dumps(work)]
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self.environment
                )
        return _Worker(spec, families, process, report, log, time.monotonic() + self.plan.timeout)

    def _work(self, spec: str, families: tuple[str, ...], report: Path) -> dict[str, Any]:
        plan = self.plan
        # The first worker of a target replays all there is: what is known shows within seconds, whichever share it is in.
        replay = plan.families_of(spec) if plan.replay and spec not in self.begun else ()
        self.begun.add(spec)
        return {
            "report": str(report),
            "target": spec,
            "families": families,
            "invariants": plan.invariants,
            "profile": plan.profile,
            "seed": plan.seed,
            "device": plan.device,
            "ledger": plan.ledger,
            "witnesses": plan.witnesses,
            "focused": plan.focused,
            "cases": str(self.cases),
            "examples": str(plan.examples(spec)) if plan.examples else None,
            "replay": replay,
            "until": plan.until,
        }

    def close(self) -> None:
        """Start no more."""
        if self.zygote is not None:
            self.zygote.close()


def run(plan: Plan, watch: Callable[[Record], None] = lambda record: None) -> Results:
    """Run every target of the plan and return all records as they came; ``watch`` sees each as it arrives.

    A target that cannot start is one :class:`TargetError`; a worker that crashes or hangs ends as ``error`` verdicts with
    the reason; the others are not disturbed. An interrupt ends the workers and returns what was computed. Raises
    :class:`UserError` only when no target could run.
    """
    collected = Results()
    ready: list[str] = []
    for spec in plan.targets:
        try:
            targets.prepare(targets.parse_target(spec))
            ready.append(spec)
        except UserError as error:
            if len(plan.targets) == 1:
                raise
            _keep(collected, TargetError(spec, str(error)), watch)
    if not ready:
        raise UserError("none of the targets can run: " + "; ".join(sorted(set(collected.errors.values()))))
    waiting = _shares(ready, plan)
    running: list[_Worker] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="timm-conformance-")))
        crew = _Crew(plan, folder, plan.parts or folder)
        stack.callback(crew.close)
        try:
            while waiting or running:
                while waiting and len(running) < plan.jobs:
                    spec, families = waiting.pop(0)
                    if spec not in collected.errors:
                        running.append(crew.start(spec, families))
                if plan.over:
                    waiting.clear()
                time.sleep(_POLL)
                for worker in list(running):
                    if _step(worker, plan, collected, watch):
                        running.remove(worker)
        except KeyboardInterrupt:
            for worker in running:
                worker.reason = INTERRUPTED
                _finish(worker, plan, collected, watch)
            for spec, families in waiting:
                _give_up(collected, plan, spec, families, INTERRUPTED, watch)
        finally:
            for worker in running:
                worker.process.kill()
    return collected


def _shares(specs: list[str], plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """What each worker is to judge, in the order they start: families of a target, in as many shares as keep cores busy."""
    wanted = plan.jobs * _SHARES if zygote.AVAILABLE else plan.jobs
    parts = 1 if plan.witnesses is not None else max(1, wanted // len(specs))
    if parts == 1:  # the longest first, so that the last ones to end are short
        specs = sorted(specs, key=lambda spec: -sum(weight(spec, family) for family in plan.families_of(spec)))
    shares = [(spec, plan.families_of(spec)[i::parts]) for i in range(parts) for spec in specs]
    return [(spec, families) for spec, families in shares if families]


def _step(worker: _Worker, plan: Plan, collected: Results, watch: Callable[[Record], None]) -> bool:
    """Read what a worker wrote; True when it has ended, by itself or because it hung."""
    ended = worker.process.poll() is not None
    for record in worker.fresh():
        worker.deadline = time.monotonic() + plan.timeout
        _keep(collected, record, watch)
    if not ended and time.monotonic() > worker.deadline:
        worker.reason = f"hung: no sign of life for {plan.timeout:.0f} s"
        ended = True
    if ended:
        _finish(worker, plan, collected, watch)
    return ended


def _finish(worker: _Worker, plan: Plan, collected: Results, watch: Callable[[Record], None]) -> None:
    worker.process.kill()
    worker.process.wait()
    for record in worker.fresh():
        _keep(collected, record, watch)
    wanted = len(worker.families) * worker.invariants
    delivered = len(worker.cells) == wanted if plan.witnesses is None else worker.replayed >= set(plan.witnesses)
    if worker.finished and (delivered or plan.over) and not worker.reason:
        return
    reason = worker.reason or _last_words(worker)
    if worker.started or worker.reason or plan.witnesses is not None:
        _give_up(collected, plan, worker.target, worker.families, reason, watch, worker.cells, worker.replayed)
    elif worker.target not in collected.errors:
        _keep(collected, TargetError(worker.target, reason), watch)


def _keep(collected: Results, record: Record, watch: Callable[[Record], None]) -> None:
    if not isinstance(record, Footer):
        collected.add(record)
    watch(record)


def _last_words(worker: _Worker) -> str:
    """Why a worker ended without a footer, in one line."""
    return last_words(worker.log.read_text(errors="replace"), worker.process.returncode, "crashed: the worker")


def _give_up(
    collected: Results,
    plan: Plan,
    spec: str,
    families: Collection[str],
    reason: str,
    watch: Callable[[Record], None],
    cells: Collection[tuple[str, str]] = (),
    replayed: Collection[str] = (),
) -> None:
    """Error verdicts for everything a worker was to deliver and did not."""
    if plan.witnesses is not None:
        missing = [Witness(spec, w, "error", False, reason) for w in plan.witnesses if w not in replayed]
    else:
        from .invariants import INVARIANTS

        todo = [(f, i) for f in families for i in plan.invariants or INVARIANTS if (f, i) not in cells]
        missing = [Verdict(spec, f, i, "error", reason=reason) for f, i in todo]
    for record in missing:
        _keep(collected, record, watch)
