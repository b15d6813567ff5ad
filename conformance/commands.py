"""What the commands do with runs and results."""

from __future__ import annotations

import dataclasses
import random
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from packaging.version import Version
from rich.console import Console

from . import ledger as ledgers
from . import publishing, releases, results
from .bisection import State, search, state_of, told, transitions
from .errors import EXIT_EXPECTED, EXIT_USAGE, UserError, choose, unknown
from .families import FAMILIES
from .hunting import hunt
from .ledger import Ledger
from .merging import overlay
from .outcome import exit_code
from .profiles import profile as profile_of
from .report.progress import Watch
from .report.terminal import make_console
from .repro.handing import write_scripts
from .results import Footer, Results
from .runner import Plan
from .runner import run as run_plan
from .sharding import share
from .targets import DEFAULT_TARGETS, parse_target


def choose_invariants(names: Sequence[str]) -> list[str]:
    """The invariants asked for; none for all of them, since their registry needs torch, which only workers import."""
    if not names:
        return []
    from .invariants import INVARIANTS

    return choose("invariant", names, INVARIANTS)


def choose_device(name: str, console: Console) -> str:
    """The device asked for; ``auto`` says when it has to do without CUDA. Raises :class:`UserError`."""
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise UserError("--device cuda: no CUDA device is visible to torch; use --device cpu, or auto")
    console.print("device auto: no CUDA device is visible; everything runs on the CPU, nothing on CUDA", style="yellow")
    return "cpu"


def choose_targets(named: Sequence[str], specifier: str | None, console: Console) -> list[str]:
    """Releases that a specifier admits and targets by name, the default ones where there are neither."""
    found: list[str] = []
    if specifier is not None:
        versions, asked = releases.matching(specifier)
        found = [f"timm=={v}" for v in versions]
        if not asked:
            console.print(
                f"the package index cannot be asked: the {len(found)} matching releases of the cache", style="yellow"
            )
    chosen = list(dict.fromkeys((*found, *named))) or list(DEFAULT_TARGETS)
    for spec in chosen:
        parse_target(spec)
    return chosen


def run_targets(
    named: Sequence[str],
    *,
    specifier: str | None,
    family: Sequence[str],
    invariant: Sequence[str],
    profile: str,
    device: str,
    jobs: int,
    seed: int | None,
    minutes: float | None,
    shard: str | None,
    resume: bool | None,
    timeout: float,
    out: Path,
    junit: Path | None,
    ledger: str | None,
) -> int:
    """Run the suite, show it, and write every report to ``out``; returns the exit code."""
    started = time.monotonic()
    console = make_console()
    profile_of(profile)
    if minutes and resume:
        raise UserError("--resume: a hunt of so many --minutes draws other cases each time; leave out one of the two")
    if seed is None:
        seed = random.SystemRandom().randrange(2**32) if minutes else 0
    families = choose("family", family, FAMILIES)
    invariants = choose_invariants(invariant)
    book_path = ledger or str(ledgers.DEFAULT_PATH)
    book = ledgers.load(book_path)
    targets = choose_targets(named, specifier, console)
    work = share(targets, families, shard)
    plan = Plan(
        targets=tuple(work),
        families=tuple(families),
        invariants=tuple(invariants),
        profile=profile,
        seed=seed,
        device=choose_device(device, console),
        ledger=ledger,
        jobs=jobs,
        timeout=timeout,
        focused=bool(family),
        shares=work,
        parts=publishing.folder(out / "parts"),
        examples=partial(ledgers.witnesses_of, out=out),
    )
    if junit is not None and not junit.absolute().parent.is_dir():
        raise UserError(f"--junit {junit}: there is no folder {junit.parent}")
    for path in sorted((out / ledgers.WITNESSES).glob("*/*.json")):
        ledgers.read_witness(path)  # a file that cannot be read is a user's to hear of before anything runs
    resume = specifier is not None and not minutes if resume is None else resume
    parts = [_earlier(plan, out, book, book_path, console)] if resume else []
    for leftover in plan.parts.glob("*.ndjson"):
        leftover.unlink()

    def keep(so_far: Results) -> None:
        publishing.publish(*publishing.concluded([so_far], book, targets), book, out)
        publishing.store_witnesses(so_far, out)

    fresh = hunt(plan, minutes, console, keep) if minutes else _run_rest(plan, parts, console)
    skipped = [_without_cuda(fresh)] if device == "auto" and plan.device == "cpu" else []
    fresh.add(Footer(round(time.monotonic() - started, 3), 0, [shard] if shard else [], skipped))
    found, gaps, code = publishing.concluded([*parts, fresh], book, targets)
    publishing.publish(found, gaps, code, book, out, junit)
    shutil.rmtree(plan.parts)
    witnesses, scripts = publishing.store_witnesses(found, out), write_scripts(found, out, jobs, timeout, console.print)
    publishing.show(console, found, gaps, book, witnesses, scripts)
    console.print(f"{time.monotonic() - started:.1f} s; results in {out}; exit code {code}", style="bold", markup=False)
    return code


def _without_cuda(found: Results) -> str:
    """What ``--device auto`` left out where there is no CUDA device."""
    promises = {name for header in found.headers for name in header.invariants}
    return (
        f"not run on CUDA, of which torch sees no device: {len(promises)} promises on {len(found.targets)} targets; "
        "every verdict is of the CPU"
    )


def _earlier(plan: Plan, out: Path, book: Ledger, ledger: str, console: Console) -> Results:
    """What an earlier run into the same folder, ended or cut off, has done of this one's work; it is kept safe at once."""
    from .resuming import finished

    files = [out / publishing.RESULTS, *sorted(plan.parts.glob("*.ndjson"))]
    done = finished(overlay(Results(results.read(f)) for f in files), plan, book, ledger)
    cells = {(v.target, v.family) for v in done.verdicts}
    if cells:
        wanted = sum(len(plan.families_of(t)) for t in plan.targets)
        console.print(
            f"{out}: {len(cells)} of {wanted} pairs of family and target are judged already, by this very suite; "
            "--fresh judges them again"
        )
        done.write(out / publishing.RESULTS)
    return done


def _run_rest(plan: Plan, parts: Sequence[Results], console: Console) -> Results:
    if parts:
        from .resuming import remaining

        plan = remaining(plan, parts[0])
    if not plan.targets:
        return Results()
    with Watch(plan, console) as watch:
        return run_plan(plan, watch)


def replay_witnesses(names: Sequence[str], *, device: str, jobs: int, timeout: float, ledger: str | None) -> int:
    """Replay witnesses on targets, one line each; returns the exit code."""
    console = make_console()
    book = ledgers.load(ledger or ledgers.DEFAULT_PATH)
    witnesses, targets = _sort_names(names, book)
    if not targets:
        raise UserError("name at least one target, for example timm==1.0.31")
    for spec in targets:
        parse_target(spec)
    plan = Plan(
        targets=tuple(targets),
        families=tuple(FAMILIES),
        invariants=(),
        device=choose_device(device, console),
        ledger=ledger,
        witnesses=tuple(witnesses or book.witnesses),
        jobs=jobs,
        timeout=timeout,
    )
    collected = run_plan(plan)
    # Targets run side by side: whichever ends first, they are told in the order they were named.
    for witness in sorted(collected.witnesses, key=lambda w: targets.index(w.target)):
        surprise = "" if witness.expected else "  (not as the ledger says)"
        line = f"{witness.replay.upper():<15} {witness.target:<16} {witness.id}{surprise}"
        console.print(line + (f": {witness.message}" if witness.message else ""), markup=False, soft_wrap=True)
    if any(w.replay == "error" for w in collected.witnesses):
        return EXIT_USAGE
    return exit_code(collected, [])


def _sort_names(names: Sequence[str], book: Ledger) -> tuple[list[str], list[str]]:
    """Tell ledger ids, witness files and targets apart."""
    witnesses, targets = [], []
    for name in names:
        if name in book.witnesses:
            witnesses.append(name)
        elif name in ("reference", "installed") or "==" in name or ":" in name:
            targets.append(name)
        elif name.endswith(".json") or Path(name).is_dir():
            witnesses += ledgers.witness_files(Path(name))
        else:
            raise unknown("witness or target", name, [*book.witnesses, "reference", "installed"])
    return witnesses, targets


def bisect(
    subject: str, *, specifier: str, every: bool, profile: str, jobs: int, timeout: float, ledger: str | None
) -> int:
    """Print between which releases a promise, or a stored failure, starts or stops to fail; returns 0."""
    console = make_console()
    book = ledgers.load(ledger or ledgers.DEFAULT_PATH)
    profile_of(profile)
    plan, family = _subject(subject, book)
    versions, _ = releases.matching(specifier)
    known = [f"timm=={v}" for v in versions if FAMILIES[family].supported_by(Version(v))]
    if not known:
        raise UserError(
            f"bisect {subject}: family {family} is known since {FAMILIES[family].first_release}; no release of {specifier!r} is"
        )

    def judge(targets: list[str]) -> dict[str, State]:
        plan_here = dataclasses.replace(
            plan, targets=tuple(targets), profile=profile, jobs=jobs, timeout=timeout, ledger=ledger
        )
        found = run_plan(plan_here)
        states = {target: state_of(found, target) for target in targets}
        for target, state in states.items():
            console.print(f"{target:<16} {told(state)}", markup=False, soft_wrap=True)
        return states

    states = search(known, judge, max(2, 2 * jobs), every)
    changes = list(transitions(states))
    console.print()
    for old, new, text in changes:
        console.print(f"{old} -> {new}: {text}", style="bold", markup=False, soft_wrap=True)
    if not changes:
        hint = "" if every else "; --every looks at the releases between"
        console.print(f"{known[0]} and {known[-1]} agree{hint}", style="bold", markup=False)
    return EXIT_EXPECTED


def _subject(subject: str, book: Ledger) -> tuple[Plan, str]:
    """What a bisection judges, FAMILY:INVARIANT or a stored witness, and the family it is about."""
    family, _, name = subject.partition(":")
    if subject.endswith(".json") or subject in book.witnesses:
        stored = book.witness(subject)
        witness = subject if subject in book.witnesses else str(Path(subject).resolve())
        return Plan((), (stored.case.family,), (), witnesses=(witness,)), stored.case.family
    if not name:
        raise unknown(
            "FAMILY:INVARIANT or witness", subject, [*book.witnesses, *(f"{f}:strict-load" for f in FAMILIES)]
        )
    (family,) = choose("family", [family], FAMILIES)
    return Plan((), (family,), tuple(choose_invariants([name])), focused=True), family
