"""The outcome of a run: its exit code, and its gaps (invariants that judged too little)."""

from __future__ import annotations

from collections import Counter

from ..errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_USAGE, EXIT_VACUOUS
from ..families import FAMILIES
from .records import Results, Verdict


def vacuous(results: Results, families: list[str], narrowed: bool) -> list[str]:
    """Invariants that met no case, or missed a regime they must meet, one line each.

    Each target is checked over all its families that an invariant concerns. Blocked and not applicable cases do not count.
    A regime is not required where the release does not support it, or where a failure reported on the same cases blocked the
    judgement (``Verdict.excused``). With a narrowed selection, only regimes that the chosen families can produce are
    required, and only of invariants that apply and that no reported failure blocks. A target that failed to run is an error,
    not a gap.
    """
    gaps = []
    for target in dict.fromkeys(h.target for h in results.headers):
        invariants = {i: r for h in results.headers if h.target == target for i, r in h.invariants.items()}
        known = {v.family for v in results.of(target) if not _unsupported(v)}
        reachable = [FAMILIES[f] for f in families if f in known]
        if not reachable or any(v.verdict == "error" for v in results.of(target)):
            continue
        everything = not narrowed and len(reachable) == len(FAMILIES)
        for name, regimes in invariants.items():
            met, excused = results.met(target, name)
            concerned = [FAMILIES[v.family] for v in results.of(target, invariant=name) if not _unsupported(v)]
            if not concerned or (narrowed and not _could_judge_all(results.of(target, invariant=name))):
                continue
            if not met["any"]:
                gaps += [] if "any" in excused else [f"{target}: {name} met no case it could judge"]
                continue
            for regime in regimes:
                whole = everything and len(concerned) == len(reachable)
                possible = whole or any(f.reaches(regime, name) for f in concerned)
                if possible and not met[regime] and regime not in excused:
                    gaps.append(f"{target}: {name} met no case of regime {regime}")
    return gaps


def _could_judge_all(verdicts: list[Verdict]) -> bool:
    """Whether an invariant could judge its cases: it applies to some, and none is blocked by another reported failure."""
    counts = sum((Counter(v.cases) + Counter(v.sought) for v in verdicts), Counter())
    return not counts["blocked"] and counts.total() > counts["not-applicable"]


def _unsupported(verdict: Verdict) -> bool:
    return verdict.verdict == "not-applicable" and not verdict.cases


def exit_code(results: Results, gaps: list[str]) -> int:
    """0 as the ledger says; 1 new failure, or an entry that no longer fails; 2 a target could not run; 3 vacuous."""
    verdicts = {v.verdict for v in results.verdicts}
    surprised = [w for w in results.witnesses if not w.expected]
    if verdicts & {"fail", "fixed"} or any(w.replay != "error" for w in surprised):
        return EXIT_FAILURE
    if "error" in verdicts or surprised or results.errors:
        return EXIT_USAGE
    return EXIT_VACUOUS if gaps else EXIT_EXPECTED
