"""``bisect``: the releases between which a failure comes or goes."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from packaging.version import Version

from ..cases.profiles import profile as profile_of
from ..cases.selection import Selection
from ..errors import EXIT_EXPECTED, UserError, choose, unknown
from ..families import FAMILIES
from ..ledger.entries import DEFAULT_LEDGER, Ledger, load_ledger
from ..report.terminal import make_console
from ..results.bisection import State, describe_state, search, state_of, transitions
from ..runner.plan import Plan
from ..runner.run import run as run_plan
from ..targets import releases
from .choices import choose_invariants


def bisect(
    subject: str, *, specifier: str, every: bool, profile: str, jobs: int, timeout: float, ledger: str | None
) -> int:
    """Print between which releases an invariant, or a stored failure, starts or stops failing; returns 0."""
    console = make_console()
    known_bugs = load_ledger(ledger or DEFAULT_LEDGER)
    profile_of(profile)
    chosen, witnesses = _subject(subject, known_bugs)
    (family,) = chosen.families
    versions, _ = releases.matching(specifier)
    known = [f"timm=={v}" for v in versions if FAMILIES[family].supported_by(Version(v))]
    if not known and FAMILIES[family].in_no_release:
        raise UserError(f"bisect {subject}: no timm release knows family {family}")
    if not known:
        raise UserError(
            f"bisect {subject}: family {family} is known since {FAMILIES[family].known_since}; no release of {specifier!r} is"
        )

    def judge(targets: list[str]) -> dict[str, State]:
        selection = replace(chosen, profile=profile, ledger=ledger)
        found = run_plan(Plan(tuple(targets), selection, witnesses, jobs, timeout))
        states = {target: state_of(found, target) for target in targets}
        for target, state in states.items():
            console.print(f"{target:<16} {describe_state(state)}", markup=False, soft_wrap=True)
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


def _subject(subject: str, known_bugs: Ledger) -> tuple[Selection, tuple[str, ...] | None]:
    """What a bisection judges: FAMILY:INVARIANT as a selection, or a stored witness of a family."""
    family, _, name = subject.partition(":")
    if subject.endswith(".json") or subject in known_bugs.witnesses:
        stored = known_bugs.witness(subject)
        witness = subject if subject in known_bugs.witnesses else str(Path(subject).resolve())
        return Selection((stored.case.family,)), (witness,)
    if not name:
        raise unknown(
            "FAMILY:INVARIANT or witness", subject, [*known_bugs.witnesses, *(f"{f}:strict-load" for f in FAMILIES)]
        )
    (family,) = choose("family", [family], FAMILIES)
    return Selection((family,), tuple(choose_invariants([name])), focused=True), None
