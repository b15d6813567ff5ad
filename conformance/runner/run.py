"""Worker processes judge targets side by side; what they report is gathered, what they fail to report is an error.

A worker judges some families of one target. Where processes can be forked, one that has imported everything but timm forks
them all; a worker then starts within a second, and targets are shared out finely enough that no core idles.
What a worker reports goes at once to a file of its own, so that a run that was cut off can be gone on with.
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
from .workers import Crew, Worker, _last_words

# Workers for each core, where a worker is cheap: the more there are, the more evenly they end.
_SHARES = 4


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
    running: list[Worker] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="timm-conformance-")))
        crew = Crew(plan, folder, plan.parts or folder)
        stack.callback(crew.close)
        try:
            while waiting or running:
                while waiting and len(running) < plan.jobs:
                    spec, families = waiting.pop(0)
                    if spec not in collected.errors:
                        running.append(crew.start(spec, families))
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
                _give_up(collected, plan, spec, families, INTERRUPTED, watch)
        finally:
            for worker in running:
                worker.process.kill()
    return collected


def _shares(specs: list[str], plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """What each worker is to judge, in the order they start: families of a target, in as many shares as keep cores busy."""
    wanted = plan.jobs * _SHARES if forkserver.AVAILABLE else plan.jobs
    parts = 1 if plan.witnesses is not None else max(1, wanted // len(specs))
    if parts == 1:  # the longest first, so that the last ones to end are short
        specs = sorted(specs, key=lambda spec: -sum(weight(spec, family) for family in plan.families_of(spec)))
    shares = [(spec, plan.families_of(spec)[i::parts]) for i in range(parts) for spec in specs]
    return [(spec, families) for spec, families in shares if families]


def _step(worker: Worker, plan: Plan, collected: Results, watch: Callable[[Record], None]) -> bool:
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


def _finish(worker: Worker, plan: Plan, collected: Results, watch: Callable[[Record], None]) -> None:
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
        from ..invariants import INVARIANTS

        todo = [(f, i) for f in families for i in plan.selection.invariants or INVARIANTS if (f, i) not in cells]
        missing = [Verdict(spec, f, i, "error", reason=reason) for f, i in todo]
    for record in missing:
        _keep(collected, record, watch)
