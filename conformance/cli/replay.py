"""``replay``: replays stored witnesses on targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..cases.selection import Selection
from ..errors import EXIT_USAGE, UserError, unknown
from ..ledger.entries import DEFAULT_LEDGER, Ledger, load_ledger
from ..ledger.witnesses import witness_files
from ..report.terminal import make_console
from ..results.outcome import exit_code
from ..runner.plan import Plan
from ..runner.run import run as run_plan
from ..targets.target import parse_target
from .choices import choose_device


def replay_witnesses(names: Sequence[str], *, device: str, jobs: int, timeout: float, ledger: str | None) -> int:
    """Replay witnesses on targets, one line each; returns the exit code."""
    console = make_console()
    known_bugs = load_ledger(ledger or DEFAULT_LEDGER)
    witnesses, targets = _sort_names(names, known_bugs)
    if not targets:
        raise UserError("name at least one target, for example timm==1.0.31")
    for spec in targets:
        parse_target(spec)
    plan = Plan(
        targets=tuple(targets),
        selection=Selection(device=choose_device(device, console), ledger=ledger),
        witnesses=tuple(witnesses or known_bugs.witnesses),
        jobs=jobs,
        timeout=timeout,
    )
    collected = run_plan(plan)
    # Targets run at the same time; their results are printed in the order in which the targets were named.
    for witness in sorted(collected.witnesses, key=lambda w: targets.index(w.target)):
        told = witness.remark and (not witness.expected or witness.target.startswith("loader:"))
        surprise = f"  ({witness.remark})" if told else ""
        line = f"{witness.replay.upper():<15} {witness.target:<16} {witness.id}{surprise}"
        console.print(line + (f": {witness.message}" if witness.message else ""), markup=False, soft_wrap=True)
    if any(w.replay == "error" for w in collected.witnesses):
        return EXIT_USAGE
    return exit_code(collected, [])


def _sort_names(names: Sequence[str], known_bugs: Ledger) -> tuple[list[str], list[str]]:
    """Sort names into witnesses (ledger ids and files) and targets."""
    witnesses, targets = [], []
    for name in names:
        if name in known_bugs.witnesses:
            witnesses.append(name)
        elif name in ("reference", "installed") or "==" in name or ":" in name:
            targets.append(name)
        elif name.endswith(".json") or Path(name).is_dir():
            witnesses += witness_files(Path(name))
        else:
            raise unknown("witness or target", name, [*known_bugs.witnesses, "reference", "installed"])
    return witnesses, targets
