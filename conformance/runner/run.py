"""Runs a plan: worker processes judge the targets, and their records are collected.

A worker judges some families of one target. Where processes can be forked, a process that has imported everything but timm
forks the workers. A worker then starts within a second, so the work is split finely enough to keep every core busy.
A worker writes each record at once to its own file, so that a run that was cut off can be resumed. What a worker fails to
report becomes an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import UserError
from ..results.records import Footer, Record, Results, TargetError, Verdict, Witness
from ..targets import target as targets
from . import forkserver
from .forkserver import POLL
from .plan import INTERRUPTED, Plan
from .sharding import weight
from .workers import Worker, WorkerPool, _end_reason

# Workers for each core where forking is available. With more workers, the cores finish at more equal times.
_SHARES = 4


def run(plan: Plan, watch: Callable[[Record], None] = lambda record: None) -> Results:
    """Run every target of the plan and return all records in order of arrival; ``watch`` is called with each.

    A target that cannot start gives one :class:`TargetError`. A worker that crashes or hangs gives ``error`` verdicts with
    the reason, and the other workers go on. An interrupt ends the workers and returns what was computed. Raises
    :class:`UserError` only if no target could run.
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
            _collect(collected, TargetError(spec, str(error)), watch)
    if not ready:
        raise UserError("none of the targets can run: " + "; ".join(sorted(set(collected.errors.values()))))
    waiting = _shares(ready, plan)
    running: list[Worker] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="timm-conformance-")))
        pool = WorkerPool(plan, folder, plan.parts or folder)
        stack.callback(pool.close)
        try:
            while waiting or running:
                while waiting and len(running) < plan.jobs:
                    spec, families = waiting.pop(0)
                    if spec not in collected.errors:
                        running.append(pool.start(spec, families))
                if plan.over:
                    waiting.clear()
                time.sleep(POLL)
                for worker in list(running):
                    if _step(worker, plan, collected, watch):
                        running.remove(worker)
        except KeyboardInterrupt:
            for worker in running:
                worker.reason = INTERRUPTED
                _finish(worker, plan, collected, watch)
            for spec, families in waiting:
                _report_missing(collected, plan, spec, families, INTERRUPTED, watch)
        finally:
            for worker in running:
                worker.process.kill()
    return collected


def _shares(specs: list[str], plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """What each worker judges, in the order of their start: families of a target, in enough shares to keep the cores busy."""
    wanted = plan.jobs * _SHARES if forkserver.AVAILABLE else plan.jobs
    parts = 1 if plan.witnesses is not None else max(1, wanted // len(specs))
    if parts == 1:  # the longest first, so that the last ones to end are short
        specs = sorted(specs, key=lambda spec: -sum(weight(spec, family) for family in plan.families_of(spec)))
    shares = [(spec, plan.families_of(spec)[i::parts]) for i in range(parts) for spec in specs]
    return [(spec, families) for spec, families in shares if families]


def _step(worker: Worker, plan: Plan, collected: Results, watch: Callable[[Record], None]) -> bool:
    """Collect what a worker wrote. Returns True if the worker has ended, by itself or because it hung."""
    ended = worker.process.poll() is not None
    for record in worker.new_records():
        worker.deadline = time.monotonic() + plan.timeout
        _collect(collected, record, watch)
    if not ended and time.monotonic() > worker.deadline:
        worker.reason = f"hung: no sign of life for {plan.timeout:.0f} s"
        ended = True
    if ended:
        _finish(worker, plan, collected, watch)
    return ended


def _finish(worker: Worker, plan: Plan, collected: Results, watch: Callable[[Record], None]) -> None:
    worker.process.kill()
    worker.process.wait()
    for record in worker.new_records():
        _collect(collected, record, watch)
    wanted = len(worker.families) * worker.invariants
    delivered = len(worker.cells) == wanted if plan.witnesses is None else worker.replayed >= set(plan.witnesses)
    if worker.finished and (delivered or plan.over) and not worker.reason:
        return
    reason = worker.reason or _end_reason(worker)
    if worker.started or worker.reason or plan.witnesses is not None:
        _report_missing(collected, plan, worker.target, worker.families, reason, watch, worker.cells, worker.replayed)
    elif worker.target not in collected.errors:
        _collect(collected, TargetError(worker.target, reason), watch)


def _collect(collected: Results, record: Record, watch: Callable[[Record], None]) -> None:
    if not isinstance(record, Footer):
        collected.add(record)
    watch(record)


def _report_missing(
    collected: Results,
    plan: Plan,
    spec: str,
    families: Collection[str],
    reason: str,
    watch: Callable[[Record], None],
    cells: Collection[tuple[str, str]] = (),
    replayed: Collection[str] = (),
) -> None:
    """Add error verdicts for everything that a worker did not deliver."""
    missing: list[Record]
    if plan.witnesses is not None:
        missing = [Witness(spec, w, "error", False, reason) for w in plan.witnesses if w not in replayed]
    else:
        from ..invariants import INVARIANTS

        todo = [(f, i) for f in families for i in plan.selection.invariants or INVARIANTS if (f, i) not in cells]
        missing = [Verdict(spec, f, i, "error", reason=reason) for f, i in todo]
    for record in missing:
        _collect(collected, record, watch)
