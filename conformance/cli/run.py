"""``run``: judges targets, shows the results and writes the reports."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from ..cases.profiles import profile as profile_of
from ..cases.selection import Selection
from ..errors import EXIT_INTERRUPTED, UserError, choose
from ..families import FAMILIES
from ..ledger.entries import DEFAULT_LEDGER, Ledger, load_ledger
from ..ledger.witnesses import WITNESSES, read_witness, witnesses_of
from ..report import publish
from ..report.progress import Watch
from ..report.terminal import make_console
from ..repro.verification import find_causes
from ..results import records
from ..results.merging import merge_results
from ..results.records import Footer, Results
from ..runner.hunting import hunt
from ..runner.plan import INTERRUPTED, Plan
from ..runner.run import run as run_plan
from ..runner.sharding import share
from .choices import choose_device, choose_invariants, choose_targets


@dataclass(frozen=True)
class RunOptions:
    """The arguments of ``run``; see its ``--help``."""

    targets: tuple[str, ...]
    specifier: str | None
    family: tuple[str, ...]
    invariant: tuple[str, ...]
    profile: str
    device: str
    jobs: int
    seed: int | None
    minutes: float | None
    shard: str | None
    resume: bool | None
    timeout: float
    out: Path
    junit: Path | None
    ledger: str | None

    @property
    def ledger_path(self) -> str:
        """The ledger's file, or ``none``."""
        return self.ledger or str(DEFAULT_LEDGER)

    def check(self) -> None:
        """Check the options before anything runs. Raises :class:`UserError`."""
        profile_of(self.profile)
        if self.minutes and self.resume:
            raise UserError("--resume cannot be combined with --minutes: a hunt draws other cases each time")
        if self.junit is not None and not self.junit.absolute().parent.is_dir():
            raise UserError(f"--junit {self.junit}: there is no folder {self.junit.parent}")
        for path in sorted((self.out / WITNESSES).glob("*/*.json")):
            read_witness(path)

    def selection(self, console: Console) -> Selection:
        """Families, invariants and draws. Raises :class:`UserError`."""
        drawn = random.SystemRandom().randrange(2**32) if self.minutes else 0
        return Selection(
            families=tuple(choose("family", self.family, FAMILIES)),
            invariants=tuple(choose_invariants(self.invariant)),
            profile=self.profile,
            seed=drawn if self.seed is None else self.seed,
            device=choose_device(self.device, console),
            focused=bool(self.family),
            ledger=self.ledger,
        )


def run_targets(options: RunOptions) -> int:
    """Run the suite, show the results, and write every report to ``options.out``; returns the exit code."""
    started = time.monotonic()
    console = make_console()
    out, minutes, shard = options.out, options.minutes, options.shard
    options.check()
    known_bugs = load_ledger(options.ledger_path)
    targets = choose_targets(options.targets, options.specifier, console)
    selection = options.selection(console)
    work = share(targets, selection.families, shard)
    parts_folder = publish.make_folder(out / "parts")
    plan = Plan(
        targets=tuple(work),
        selection=selection,
        jobs=options.jobs,
        timeout=options.timeout,
        shares=work,
        parts=parts_folder,
        examples=partial(witnesses_of, out=out),
    )
    resume = options.specifier is not None and not minutes if options.resume is None else options.resume
    parts = [_earlier(plan, out, known_bugs, options.ledger_path, console)] if resume else []
    for leftover in parts_folder.glob("*.ndjson"):
        leftover.unlink()

    def keep(so_far: Results) -> None:
        publish.publish(*publish.conclude([so_far], known_bugs, targets), known_bugs, out)
        publish.store_witnesses(so_far, out)

    if minutes:
        tell = partial(console.print, markup=False, soft_wrap=True)
        fresh = hunt(plan, minutes, watching=partial(Watch, console=console), tell=tell, keep=keep)
    else:
        fresh = _run_rest(plan, parts, console)
    skipped = [_without_cuda(fresh)] if options.device == "auto" and selection.device == "cpu" else []
    fresh.add(Footer(round(time.monotonic() - started, 3), 0, [shard] if shard else [], skipped))
    found, gaps, code = publish.conclude([*parts, fresh], known_bugs, targets)
    if any(v.reason == INTERRUPTED for v in found.verdicts):
        code = EXIT_INTERRUPTED
    publish.publish(found, gaps, code, known_bugs, out, options.junit)
    shutil.rmtree(parts_folder)
    witnesses = publish.store_witnesses(found, out)
    causes = []
    if code != EXIT_INTERRUPTED:
        say = partial(console.print, markup=False, soft_wrap=True)
        causes = find_causes(found, options.jobs, options.timeout, say)
    if causes:
        *judged, footer = found.records
        found = Results([*judged, *causes, footer])
        publish.publish(found, gaps, code, known_bugs, out, options.junit)
    scripts = publish.store_scripts(found, out)
    publish.show(console, found, gaps, known_bugs, witnesses, scripts)
    if code == EXIT_INTERRUPTED:
        console.print("interrupted: what was judged is kept, and --resume goes on with the rest", markup=False)
    console.print(f"{time.monotonic() - started:.1f} s; results in {out}; exit code {code}", style="bold", markup=False)
    return code


def _without_cuda(found: Results) -> str:
    """States what ``--device auto`` did not run because there is no CUDA device."""
    invariants = {name for header in found.headers for name in header.invariants}
    return (
        f"not run on CUDA, because torch sees no device: {len(invariants)} invariants on {len(found.targets)} targets; "
        "every verdict is from the CPU"
    )


def _earlier(plan: Plan, out: Path, known_bugs: Ledger, ledger: str, console: Console) -> Results:
    """The part of this run that an earlier run into the same folder has completed. It is written to the results at once."""
    from ..runner.resuming import finished

    assert plan.parts is not None  # set by run_targets
    files = [out / publish.RESULTS, *sorted(plan.parts.glob("*.ndjson"))]
    done = finished(merge_results(Results(records.read(f)) for f in files), plan, known_bugs, ledger)
    cells = {(v.target, v.family) for v in done.verdicts}
    if cells:
        wanted = sum(len(plan.families_of(t)) for t in plan.targets)
        console.print(
            f"{out}: {len(cells)} of {wanted} pairs of family and target were judged by an earlier run of this suite; "
            "--fresh judges them again"
        )
        done.write(out / publish.RESULTS)
    return done


def _run_rest(plan: Plan, parts: Sequence[Results], console: Console) -> Results:
    if parts:
        from ..runner.resuming import remaining

        plan = remaining(plan, parts[0])
    if not plan.targets:
        return Results()
    with Watch(plan, console) as watch:
        return run_plan(plan, watch)
