"""One worker process a target, side by side; what they report is merged, what they fail to report is an error verdict.

No core idles: a target alone on several cores is shared out, each worker taking every n-th family; and targets left over
(the third of three on two cores) start as soon as the others have, instead of waiting for a whole one to end.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import results, targets
from .errors import UserError
from .results import Footer, Header, Record, Results, Verdict, Witness

SUITE = Path(__file__).with_name("suite")
_POLL = 0.05


@dataclass(frozen=True)
class Plan:
    """What to run.

    No ``invariants`` mean all; ``witnesses`` given means replay only those; ``focused`` draws a whole profile of cases for
    each family, however much of its code path others share.
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


@dataclass
class _Worker:
    target: str
    families: tuple[str, ...]
    process: subprocess.Popen
    path: Path
    log: Path
    deadline: float
    offset: int = 0
    started: bool = False
    finished: bool = False
    reason: str = ""
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
        elif isinstance(record, Verdict):
            self.cells.add((record.family, record.invariant))
        elif isinstance(record, Witness):
            self.replayed.add(record.id)
        elif isinstance(record, Footer):
            self.finished = True


def run(plan: Plan, watch: Callable[[Record], None] = lambda record: None) -> Results:
    """Run every target of the plan and return all records; ``watch`` sees each as it arrives.

    A worker that crashes, hangs or cannot start ends as ``error`` verdicts with the reason; the others are not disturbed.
    An interrupt ends the workers and returns what was computed. Raises :class:`UserError` only when no target could run.
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
            _give_up(collected, plan, spec, plan.families, str(error), watch)
    if not ready:
        raise UserError("none of the targets can run: " + "; ".join(sorted({v.reason for v in collected.verdicts})))
    waiting = _shares(ready, plan)
    extra = len(waiting) % plan.jobs if len(waiting) < 2 * plan.jobs else 0
    running: list[_Worker] = []
    serial = itertools.count()
    with tempfile.TemporaryDirectory(prefix="timm-conformance-") as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < plan.jobs + (extra if all(w.started for w in running) else 0):
                    running.append(_start(plan, *waiting.pop(0), Path(scratch), next(serial)))
                time.sleep(_POLL)
                for worker in list(running):
                    if _step(worker, plan, collected, watch):
                        running.remove(worker)
        except KeyboardInterrupt:
            for worker in running:
                worker.reason = "interrupted"
                _finish(worker, plan, collected, watch)
            for spec, families in waiting:
                _give_up(collected, plan, spec, families, "interrupted", watch)
        finally:
            for worker in running:
                worker.process.kill()
    return collected


def _shares(specs: list[str], plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """Each target with the families of each of its workers: one worker a target, more where cores would idle."""
    parts = max(1, min(plan.jobs // len(specs), len(plan.families))) if plan.witnesses is None else 1
    return [(spec, plan.families[i::parts]) for spec in specs for i in range(parts)]


def _start(plan: Plan, spec: str, families: tuple[str, ...], scratch: Path, serial: int) -> _Worker:
    path, log = scratch / f"{serial}.ndjson", scratch / f"{serial}.log"
    command = [sys.executable, "-m", "pytest", "-c", str(SUITE / "pytest.ini"), "--rootdir", str(SUITE)]
    command += ["-p", "conformance.plugin", str(SUITE), "--vit-target", spec, "--vit-results", str(path)]
    command += ["--vit-profile", plan.profile, "--vit-seed", str(plan.seed), "--vit-device", plan.device]
    command += [f"--vit-family={f}" for f in families] + [f"--vit-invariant={i}" for i in plan.invariants]
    command += ["--vit-ledger", plan.ledger] if plan.ledger else []
    command += ["--vit-focused"] if plan.focused else []
    command += [f"--vit-witness={w}" for w in plan.witnesses or ()]
    root = str(SUITE.parent.parent)
    search = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
    return _Worker(spec, families, process, path, log, time.monotonic() + plan.timeout)


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
    if not worker.finished or worker.reason:
        reason = worker.reason or _last_words(worker)
        _give_up(collected, plan, worker.target, worker.families, reason, watch, worker.cells, worker.replayed)


def _keep(collected: Results, record: Record, watch: Callable[[Record], None]) -> None:
    if not isinstance(record, Footer):
        collected.add(record)
    watch(record)


def _last_words(worker: _Worker) -> str:
    """Why a worker ended without a footer, in one line."""
    code = worker.process.returncode
    lines = [line.strip() for line in worker.log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if said:
        return said[-1]
    last = f" (its last line: {lines[-1]})" if lines and len(lines[-1]) > len("[100%]") else ""
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    return f"crashed: the worker {how}{last}"


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
