"""What the commands do with runs and results."""

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
from ..errors import UserError, choose
from ..families import FAMILIES
from ..ledger.entries import DEFAULT_LEDGER, Ledger, load_ledger
from ..ledger.witnesses import WITNESSES, read_witness, witnesses_of
from ..report import publish
from ..report.progress import Watch
from ..report.terminal import make_console
from ..repro.verification import write_scripts
from ..results import records
from ..results.merging import overlay
from ..results.records import Footer, Results
from ..runner.hunting import hunt
from ..runner.plan import Plan
from ..runner.run import run as run_plan
from ..runner.sharding import share
from .choices import choose_device, choose_invariants, choose_targets


@dataclass(frozen=True)
class RunOptions:
    """What ``run`` was asked on the command line; see its ``--help``."""

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
    def book(self) -> str:
        """The ledger's file, or ``none``."""
        return self.ledger or str(DEFAULT_LEDGER)

    def check(self) -> None:
        """Raises :class:`UserError` for what cannot be meant, before anything runs."""
        profile_of(self.profile)
        if self.minutes and self.resume:
            raise UserError(
                "--resume: a hunt of so many --minutes draws other cases each time; leave out one of the two"
            )
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
    """Run the suite, show it, and write every report to ``options.out``; returns the exit code."""
    started = time.monotonic()
    console = make_console()
    out, minutes, shard = options.out, options.minutes, options.shard
    options.check()
    book = load_ledger(options.book)
    targets = choose_targets(options.targets, options.specifier, console)
    selection = options.selection(console)
    work = share(targets, selection.families, shard)
    plan = Plan(
        targets=tuple(work),
        selection=selection,
        jobs=options.jobs,
        timeout=options.timeout,
        shares=work,
        parts=publish.folder(out / "parts"),
        examples=partial(witnesses_of, out=out),
    )
    resume = options.specifier is not None and not minutes if options.resume is None else options.resume
    parts = [_earlier(plan, out, book, options.book, console)] if resume else []
    for leftover in plan.parts.glob("*.ndjson"):
        leftover.unlink()

    def keep(so_far: Results) -> None:
        publish.publish(*publish.concluded([so_far], book, targets), book, out)
        publish.store_witnesses(so_far, out)

    if minutes:
        tell = partial(console.print, markup=False, soft_wrap=True)
        fresh = hunt(plan, minutes, watching=partial(Watch, console=console), tell=tell, keep=keep)
    else:
        fresh = _run_rest(plan, parts, console)
    skipped = [_without_cuda(fresh)] if options.device == "auto" and selection.device == "cpu" else []
    fresh.add(Footer(round(time.monotonic() - started, 3), 0, [shard] if shard else [], skipped))
    found, gaps, code = publish.concluded([*parts, fresh], book, targets)
    publish.publish(found, gaps, code, book, out, options.junit)
    shutil.rmtree(plan.parts)
    witnesses = publish.store_witnesses(found, out)
    scripts = write_scripts(found, out, options.jobs, options.timeout, console.print)
    publish.show(console, found, gaps, book, witnesses, scripts)
    console.print(f"{time.monotonic() - started:.1f} s; results in {out}; exit code {code}", style="bold", markup=False)
    return code


def _without_cuda(found: Results) -> str:
    """What ``--device auto`` left out where there is no CUDA device."""
    invariants = {name for header in found.headers for name in header.invariants}
    return (
        f"not run on CUDA, of which torch sees no device: {len(invariants)} invariants on {len(found.targets)} targets; "
        "every verdict is of the CPU"
    )


def _earlier(plan: Plan, out: Path, book: Ledger, ledger: str, console: Console) -> Results:
    """What an earlier run into the same folder, ended or cut off, has done of this one's work; it is kept safe at once."""
    from ..runner.resuming import finished

    files = [out / publish.RESULTS, *sorted(plan.parts.glob("*.ndjson"))]
    done = finished(overlay(Results(records.read(f)) for f in files), plan, book, ledger)
    cells = {(v.target, v.family) for v in done.verdicts}
    if cells:
        wanted = sum(len(plan.families_of(t)) for t in plan.targets)
        console.print(
            f"{out}: {len(cells)} of {wanted} pairs of family and target are judged already, by this very suite; "
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
