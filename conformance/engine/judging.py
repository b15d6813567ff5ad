"""Judges one invariant on one case, and counts the outcomes over many cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..cases.case import Case
from ..drawing.drawing import PINNED
from ..drawing.strategies import Stratum
from ..invariants import Invariant
from ..targets.models import Unsupported
from ..trials.loaded import Blocked
from ..trials.problems import Problem
from ..trials.trial import Trial


@dataclass(frozen=True)
class Judgement:
    """One invariant on one case: pass, fail, blocked, not-applicable or error.

    ``unsupported`` says that the release lacks what the case needs.
    """

    outcome: str
    problems: tuple[Problem, ...] = ()
    worst: float | None = None
    reason: str = ""
    unsupported: bool = False


def inapplicable(invariant: Invariant, trial: Trial) -> str | None:
    """The reason why an invariant does not apply to a case, or None."""
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
        return Judgement("not-applicable", reason=str(unsupported), unsupported=True)
    except Exception as error:
        return Judgement("error", reason=f"{type(error).__name__}: {error}")
    if problems:
        return Judgement("fail", problems)
    return Judgement("pass", worst=max(fractions, default=None))


@dataclass
class NewFailure:
    """A problem that no ledger entry explains, the first case that shows it, and how many drawn cases do."""

    problem: Problem
    case: Case
    stratum: Stratum
    count: int = 0


@dataclass
class Tally:
    """The outcomes of one invariant over the cases of a family.

    ``cases`` counts the drawn cases, ``sought`` those that were judged to meet a regime. ``regimes`` counts the judged cases of
    both by regime, and all of them under ``any``. ``excused`` are the regimes of cases that the release does not support, or that
    could not be judged because another invariant failed on them.
    """

    cases: Counter[str] = field(default_factory=Counter)
    sought: Counter[str] = field(default_factory=Counter)
    regimes: Counter[str] = field(default_factory=Counter)
    excused: set[str] = field(default_factory=set)
    known: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    new: dict[tuple[str, str], NewFailure] = field(default_factory=dict)
    worst: float | None = None

    @property
    def applied(self) -> bool:
        """Whether the invariant applied to any case, judged or blocked."""
        return bool((self.cases | self.sought).keys() - {"not-applicable"})

    def count(self, problem: Problem, case: Case, stratum: Stratum, sought: bool) -> None:
        """Count a problem that no ledger entry explains. A drawn case takes a pinned one's place: it alone can be shrunk."""
        key = (problem.kind, problem.tensor)
        seen = self.new.get(key)
        if seen is None or (seen.stratum == PINNED != stratum):
            seen = self.new[key] = NewFailure(problem, case, stratum, seen.count if seen else 0)
        seen.count += not sought
