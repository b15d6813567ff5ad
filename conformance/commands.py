"""What ``run`` and ``replay`` do, and how they show it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import ledger as ledgers
from . import results
from .errors import EXIT_USAGE, UserError, choose, unknown
from .families import FAMILIES
from .ledger import Ledger
from .outcome import exit_code, vacuous
from .profiles import profile as profile_of
from .report import junit as junit_report
from .report.markdown import summary
from .report.terminal import denominator, known_lines, make_console, print_failures, print_table
from .runner import Plan
from .runner import run as run_plan
from .targets import parse_target


def _choose_invariants(names: Sequence[str]) -> list[str]:
    """The invariants asked for; none for all of them, since their registry needs torch, which only workers import."""
    if not names:
        return []
    from .invariants import INVARIANTS

    return choose("invariant", names, INVARIANTS)


def _shard(families: list[str], shard: str | None) -> list[str]:
    if shard is None:
        return families
    try:
        index, count = (int(part) for part in shard.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count:
        raise UserError(f"--shard {shard!r}: write I/N with 1 <= I <= N, for example 1/4")
    mine = families[index - 1 :: count]
    if not mine:
        raise UserError(f"--shard {shard}: only {len(families)} families to share out")
    return mine


def _device(name: str, console: Console) -> str:
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise UserError("--device cuda: no CUDA device is visible to torch; use --device cpu, or auto")
    console.print("device auto: no CUDA device is visible; everything runs on the CPU, nothing on CUDA", style="yellow")
    return "cpu"


def run_targets(
    targets: Sequence[str],
    *,
    family: Sequence[str],
    invariant: Sequence[str],
    profile: str,
    device: str,
    jobs: int,
    seed: int,
    shard: str | None,
    timeout: float,
    out: Path,
    junit: Path | None,
    ledger: str | None,
) -> int:
    """Run the suite, show it, write ``results.ndjson`` and ``summary.md`` to ``out``; returns the exit code."""
    started = time.monotonic()
    console = make_console()
    targets = list(dict.fromkeys(targets))
    for spec in targets:
        parse_target(spec)
    profile_of(profile)
    families = _shard(choose("family", family, FAMILIES), shard)
    invariants = _choose_invariants(invariant)
    book = ledgers.load(ledger or ledgers.DEFAULT_PATH)
    plan = Plan(
        targets=tuple(targets),
        families=tuple(families),
        invariants=tuple(invariants),
        profile=profile,
        seed=seed,
        device=_device(device, console),
        ledger=ledger,
        jobs=jobs,
        timeout=timeout,
        focused=bool(family),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None
    if junit is not None and not junit.absolute().parent.is_dir():
        raise UserError(f"--junit {junit}: there is no folder {junit.parent}")
    collected = _watched(plan, console)
    # What one shard did not meet, another may have.
    gaps = [] if shard else vacuous(collected, families, narrowed=len(families) < len(FAMILIES))
    code = exit_code(collected, gaps)
    titles = {e.id: e.title for e in book.entries}
    collected.add(results.Footer(round(time.monotonic() - started, 3), code))
    collected.write(out / "results.ndjson")
    (out / "summary.md").write_text(summary(collected, targets, families, titles, gaps, code), encoding="utf-8")
    if junit is not None:
        junit_report.write(collected, junit)
    print_table(console, collected, targets, families)
    known = known_lines(collected, titles)
    if known:
        console.print("\nKnown bugs that showed", style="bold yellow")
        for line in known:
            console.print(f"~ {line}", markup=False, soft_wrap=True)
    print_failures(console, collected, _store_witnesses(collected, out / "witnesses"))
    for gap in gaps:
        console.print(f"? not judged: {gap}", style="yellow", markup=False, soft_wrap=True)
    console.print()
    for line in denominator(collected):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"{time.monotonic() - started:.1f} s; results in {out}; exit code {code}", style="bold", markup=False)
    return code


def _watched(plan: Plan, console: Console) -> results.Results:
    """Run a plan with progress: a bar a target on a terminal, and each replayed witness or new failure as it arrives."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {t: bars.add_task(f"{t} starting", total=None) for t in plan.targets}

        def watch(record: results.Record) -> None:
            if isinstance(record, results.Header):
                bars.update(tasks[record.target], total=len(plan.families) * len(record.invariants))
            elif isinstance(record, results.Progress):
                bars.update(tasks[record.target], description=f"{record.target} {record.family}: {record.cases} cases")
            elif isinstance(record, results.Verdict):
                bars.update(tasks[record.target], advance=1, description=record.target)
                for failure in record.failures:
                    text = f"✗ {record.target}  {failure.fingerprint}"
                    bars.console.print(text, style="red", markup=False, soft_wrap=True)
            elif isinstance(record, results.Witness) and (record.replay == "fails" or not record.expected):
                kind = "as the ledger says" if record.expected else "NOT as the ledger says"
                text = f"  {record.target}  witness {record.id} {record.replay.upper()} ({kind}): {record.message}"
                style = "dim" if record.expected else "magenta"
                bars.console.print(text[:200], style=style, markup=False, soft_wrap=True)

        return run_plan(plan, watch)


def _store_witnesses(collected: results.Results, folder: Path) -> dict[tuple[str, str], Path]:
    """Write a witness file for each new failure; returns them by target and fingerprint."""
    return {
        (v.target, f.fingerprint): ledgers.write_witness(folder / ledgers.slug(v.target), v.invariant, f)
        for v in collected.verdicts
        for f in v.failures
    }


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
        device=_device(device, console),
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
        elif name.endswith(".json"):
            ledgers.read_witness(Path(name))
            witnesses.append(str(Path(name).resolve()))
        elif name in ("reference", "installed") or "==" in name or ":" in name:
            targets.append(name)
        else:
            raise unknown("witness or target", name, [*book.witnesses, "reference", "installed"])
    return witnesses, targets
