"""Shows the progress of a run: bars on a terminal, lines in a log, and each unexpected result as it arrives."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..results import records
from ..runner.plan import Plan
from .terminal import FEW, cell_counts, verdict_label


class Watch:
    """Shows the records of a plan's run; a context manager, and the ``watch`` of :func:`timm_conformance.runner.run.run`."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.many = len(plan.targets) > FEW
        self.left = {t: len(plan.families_of(t)) for t in plan.targets}
        self.verdicts: dict[str, list[records.Verdict]] = {t: [] for t in plan.targets}
        self.sizes: dict[str, int] = {}
        self.whole = self.bars.add_task(f"{len(plan.targets)} targets", total=sum(self.left.values()))
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Watch:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def __call__(self, record: records.Record) -> None:
        """Show one record."""
        if isinstance(record, records.Header):
            self._begin(record)
        elif isinstance(record, records.Progress) and record.target in self.tasks:
            text = f"{record.target} {record.family}: {record.cases} cases"
            self.bars.update(self.tasks[record.target], description=text)
        elif isinstance(record, records.Verdict):
            self._judge(record)
        elif isinstance(record, records.TargetError):
            self._say(f"E {record.target}: {record.reason}", "red")
            self.bars.update(self.whole, advance=self.left.get(record.target, 0))
            self._end(record.target)
        elif isinstance(record, records.Witness) and (
            not record.expected or (record.replay == "fails" and not self.many)
        ):
            remark = f" ({record.remark})" if record.remark else ""
            text = f"  {record.target}  witness {record.id} {record.replay.upper()}{remark}: {record.message}"
            self._say(text[:200], "dim" if record.expected else "magenta")

    def _begin(self, header: records.Header) -> None:
        self.sizes[header.target] = len(header.invariants)
        if header.target not in self.tasks and header.target in self.left:
            self.tasks[header.target] = self.bars.add_task(header.target, total=self.left[header.target])

    def _judge(self, verdict: records.Verdict) -> None:
        for failure in verdict.failures:
            self._say(f"✗ {verdict.target}  {failure.fingerprint}", "red")
        seen = self.verdicts[verdict.target]
        seen.append(verdict)
        size = self.sizes.get(verdict.target)
        if not size or len(seen) % size:
            return
        self.bars.update(self.whole, advance=1)
        if verdict.target in self.tasks:
            self.bars.update(self.tasks[verdict.target], advance=1)
        if len(seen) == size * self.left[verdict.target]:
            self._end(verdict.target)

    def _end(self, target: str) -> None:
        if target in self.tasks:
            self.bars.update(self.tasks.pop(target), visible=False)
        seen = self.verdicts.get(target)
        if self.many and seen:
            ended = sum(1 for t, v in self.verdicts.items() if v and t not in self.tasks)
            counts = ", ".join(verdict_label(*counted) for counted in cell_counts(seen))
            minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
            self._say(f"{minutes}:{seconds:02}  {ended}/{len(self.verdicts)}  {target}: {counts}")

    def _say(self, text: str, style: str | None = None) -> None:
        self.bars.console.print(text, style=style, markup=False, soft_wrap=True)
