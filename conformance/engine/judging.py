"""One invariant on one case, and what came of it over many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..invariants import Invariant
from ..targets.loader import Unsupported
from ..trials.problems import Problem
from ..trials.trial import Blocked, Trial


@dataclass(frozen=True)
class Judgement:
    """One invariant on one case: pass, fail, blocked, not-applicable or error."""

    outcome: str
    problems: tuple[Problem, ...] = ()
    worst: float | None = None
    reason: str = ""


def inapplicable(invariant: Invariant, trial: Trial) -> str | None:
    """Why an invariant has nothing to say about a case, or None."""
    return trial.undecidable or invariant.applies(trial)


def judge(invariant: Invariant, trial: Trial) -> Judgement:
    """Judge one case. A mistake of the suite itself becomes an ``error``, never a failure of the loader."""
    try:
        reason = inapplicable(invariant, trial)
        if reason:
            return Judgement("not-applicable", reason=reason)
        seen = len(trial.fractions)
        problems = tuple(invariant.check(trial))
        fractions = trial.fractions[seen:]
    except Blocked as blocked:
        return Judgement("blocked", reason=str(blocked))
    except Unsupported as unsupported:
        return Judgement("not-applicable", reason=str(unsupported))
    except Exception as error:
        return Judgement("error", reason=f"{type(error).__name__}: {error}")
    if problems:
        return Judgement("fail", problems)
    return Judgement("pass", worst=max(fractions, default=None))


@dataclass
class Tally:
    """What came of one invariant over the cases of a family.

    ``regimes`` counts the judged cases, ``any`` all of them; ``excused`` are the regimes of cases that a release knows nothing
    of, or that a failure of another invariant, reported on the same case, kept from being judged.
    """

    cases: Counter[str] = field(default_factory=Counter)
    regimes: Counter[str] = field(default_factory=Counter)
    excused: set[str] = field(default_factory=set)
    known: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    new: dict[tuple[str, str], list] = field(default_factory=dict)
    worst: float | None = None
