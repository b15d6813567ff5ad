"""Explores a family's cases on one loader, and judges every invariant on each case.

Drawing and loading are expensive and judging is cheap, so one case serves all invariants. Hypothesis then shrinks each new
failure by itself, over the sequence of draws that found it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from itertools import product

import torch

from ..cases.case import Case
from ..drawing.drawing import PINNED, Drawing
from ..drawing.strategies import Stratum, strata_of
from ..families import Family
from ..invariants import Invariant
from ..ledger.entries import Entry, Ledger, first_covering
from ..results import records
from ..targets.loader import Loader
from ..trials.deviations import loaded_case
from ..trials.library_results import has_library_result
from ..trials.problems import Problem
from ..trials.trial import Trial
from .beside_timm import BesideTimm
from .explanation import explain
from .judging import NewFailure, Tally, inapplicable, judge

# Maximum judgements of one shrink; then the smallest failing case so far is reported.
_SHRINK_BUDGET = 200
# How often all strata are searched for a regime that was not met. After so many strata, an invariant that has applied to no case
# is taken to apply to none of the family.
_SEARCHES = 4
_PATIENCE = 12


class Explorer:
    """Explores families on one loader, and assigns failures to the ledger entries that explain them."""

    def __init__(
        self,
        loader: Loader,
        ledger: Ledger,
        invariants: Iterable[Invariant],
        drawing: Drawing,
        note: Callable[[records.Record], None] = lambda record: None,
    ) -> None:
        self.loader = loader
        self.ledger = ledger
        self.faults = loader.library_faults
        self.entries = ledger.active(loader.release, self.faults)
        self.timm = BesideTimm(loader, ledger) if loader.target.kind == "loader" else None
        self.invariants = list(invariants)
        self.drawing = drawing
        self.note = note
        self.target = loader.target.spec

    # -- judging -----------------------------------------------------------------------------------------------------

    def attribute(self, trial: Trial, invariant: Invariant, problem: Problem) -> Entry | None:
        """The ledger entry a problem belongs to, or None when it is new.

        A fault of a library explains a failure of a function under test only where the tensor is the library's wrong result.
        """
        found = (problem.kind, problem.tensor)
        entry = first_covering(self.entries, trial.family.name, invariant.name, found, trial.regimes)
        if entry and self.timm and not has_library_result(trial, entry.probe, problem.tensor):
            return None
        return entry

    def explore(self, family: Family) -> list[records.Verdict]:
        """The verdicts of every invariant for one family. A :class:`Loads` record of its cases goes to ``note``."""
        if not self.loader.supports(family):
            since = "read by no release" if family.in_no_release else f"known since {family.known_since}"
            reason = f"timm {self.loader.timm_version} does not know the format ({since})"
            return [self._not_applicable(family, i, reason) for i in self.invariants]
        judging = [i for i in self.invariants if i.concerns(family) and i.judges(self.loader.target)]
        tallies = {i.name: Tally() for i in judging}
        loaded: list[records.LoadedCase | None] = []
        for stratum, drawn in self.drawing.cases(family).items():
            for case in drawn:
                trial = Trial(family, case, self.loader)
                self._judge_all(tallies, trial, stratum)
                loaded.append(loaded_case(trial))
            self._report_alive(family, tallies)
            if loaded and stratum != PINNED and self.drawing.over:
                break
        self.note(records.Loads(self.target, family.name, [case for case in loaded if case is not None]))
        if self.drawing.focused:
            self._judge_unmet_regimes(family, tallies)
        verdicts = {i.name: self._verdict(family, i, tallies[i.name]) for i in self._concerned(tallies)}
        return [
            verdicts.get(i.name) or self._not_applicable(family, i, "has nothing to judge here")
            for i in self.invariants
        ]

    def _concerned(self, tallies: dict[str, Tally]) -> list[Invariant]:
        return [i for i in self.invariants if i.name in tallies]

    def _not_applicable(self, family: Family, invariant: Invariant, reason: str) -> records.Verdict:
        """The verdict of an invariant that has no case to judge in a family."""
        return records.Verdict(self.target, family.name, invariant.name, "not-applicable", reason=reason)

    def _judge_unmet_regimes(self, family: Family, tallies: dict[str, Tally]) -> None:
        """Judge further cases for regimes that the drawn cases did not contain, until every regime is met or none is found.

        No case is sought of a regime in which a reported failure left nothing to judge: the next one would end the same way.
        Nor, after a round, of one whose cases the release does not support.
        """
        strata, lacking = strata_of(family), set[str]()

        def unmet(searched: int, trial: Trial | None = None) -> list[Invariant]:
            """The invariants that still lack a regime, after so many strata were searched for it.

            With a trial, only those that lack one of its regimes and can judge it.
            """
            wanting = []
            for invariant in self._concerned(tallies):
                tally = tallies[invariant.name]
                if searched >= _PATIENCE and not tally.applied:
                    continue
                wanted = set(invariant.regimes_on(self.loader.target.kind)) - tally.excused
                wanted -= lacking if searched >= len(strata) else set()
                missing = {r for r in wanted if not tally.regimes[r] and family.reaches(r, invariant.name)}
                if missing and (trial is None or (missing & trial.regimes and not inapplicable(invariant, trial))):
                    wanting.append(invariant)
            return wanting

        for searched, (search, stratum) in enumerate(product(range(_SEARCHES), strata)):
            if self.drawing.over or not unmet(searched):
                break
            for case in self.drawing.more(family, stratum, search):
                trial = Trial(family, case, self.loader)
                if unmet(searched, trial):
                    self._judge_all(tallies, trial, stratum, sought=True)
                elif self._lacking(trial):
                    lacking |= trial.regimes
            self._report_alive(family, tallies)
        for invariant in self._concerned(tallies):
            tallies[invariant.name].excused.update(lacking.intersection(invariant.regimes))

    def _report_alive(self, family: Family, tallies: dict[str, Tally]) -> None:
        """Every case was judged by every invariant, so each tally has counted them all."""
        cases = max((t.cases.total() for t in tallies.values()), default=0)
        self.note(records.Progress(self.target, family.name, cases))

    def _judge_all(self, tallies: dict[str, Tally], trial: Trial, stratum: Stratum, sought: bool = False) -> None:
        """Judge a case by every invariant. ``sought`` says that it was not drawn, but looked for to meet a regime."""
        # A model may keep parts of its own initialisation: these are then the same every time.
        torch.manual_seed(trial.case.contents.seed)
        outcomes = {i.name: self._tally(tallies[i.name], i, trial, stratum, sought) for i in self._concerned(tallies)}
        lacking = self._lacking(trial)
        broken = not {"fail", "known"}.isdisjoint(outcomes.values())
        for invariant in self._concerned(tallies):
            if lacking or (broken and outcomes[invariant.name] == "blocked"):
                tallies[invariant.name].excused.update({"any", *trial.regimes.intersection(invariant.regimes)})

    def _lacking(self, trial: Trial) -> bool:
        """Whether the target's release does not support a case, or does not read the file as it was saved."""
        unsupported = self.loader.unsupported(trial.family, trial.case) is not None
        return unsupported or not self.loader.reads_saved(trial.family, trial.case)

    def _tally(self, tally: Tally, invariant: Invariant, trial: Trial, stratum: Stratum, sought: bool) -> str:
        """Judge one case, count it, and return the outcome."""
        result = judge(invariant, trial)
        outcome = result.outcome
        if result.unsupported:
            tally.excused.update({"any", *trial.regimes.intersection(invariant.regimes)})
        if result.reason:
            tally.reasons[result.reason] += 1
        if result.worst is not None:
            tally.worst = max(tally.worst or 0.0, result.worst)
        if outcome == "fail":
            owners = {(p.kind, p.tensor): (p, self.attribute(trial, invariant, p)) for p in result.problems}
            for problem, entry in owners.values():
                if entry is not None:
                    tally.known[entry.id] += not sought
                else:
                    tally.count(problem, trial.case, stratum, sought)
            if all(entry is not None for _, entry in owners.values()):
                outcome = "known"
        (tally.sought if sought else tally.cases)[outcome] += 1
        if outcome in records.JUDGED:
            tally.regimes.update({"any", *trial.regimes.intersection(invariant.regimes)})
        return outcome

    def _verdict(self, family: Family, invariant: Invariant, tally: Tally) -> records.Verdict:
        smaller: list[Case] = []
        failures = [self._failure(family, invariant, found, smaller) for found in tally.new.values()]
        counts = tally.cases + tally.sought
        worst_first: tuple[records.VerdictName, ...] = ("error", "fail", "known", "pass")
        verdict: records.VerdictName = next((o for o in worst_first if counts[o]), "not-applicable")
        reasons = {"known": self._blame(tally)} | dict.fromkeys(
            ("not-applicable", "error"), "; ".join(reason for reason, _ in tally.reasons.most_common(3))
        )
        return records.Verdict(
            target=self.target,
            family=family.name,
            invariant=invariant.name,
            verdict=verdict,
            cases=dict(sorted(tally.cases.items())),
            sought=dict(sorted(tally.sought.items())),
            regimes=dict(sorted(tally.regimes.items())),
            excused=sorted(tally.excused - tally.regimes.keys()),
            known=dict(sorted(tally.known.items())),
            failures=failures,
            worst=tally.worst,
            reason=reasons.get(verdict, ""),
        )

    def _blame(self, tally: Tally) -> str:
        """What the probes say of the libraries at fault for known failures; empty where all are timm's own."""
        owners = (e for e in self.entries if e.id in tally.known)
        return "; ".join(dict.fromkeys(self.faults[e.probe].text for e in owners if e.probe))

    def _failure(
        self,
        family: Family,
        invariant: Invariant,
        found: NewFailure,
        smaller: list[Case],
    ) -> records.Failure:
        problem, case = self._smallest(family, invariant, found, smaller)
        trial = Trial(family, case, self.loader)
        tags = fingerprint_regimes(trial)
        signature = f"{invariant.name}:{family.name}:{problem.kind}:{problem.tensor}"
        return records.Failure(
            f"{signature}[{tags}]",
            problem.kind,
            problem.tensor,
            problem.message,
            case,
            found.count,
            problem.fraction,
            self.drawing.seed,
            self.timm.same_as(trial, invariant, problem) if self.timm else "",
            explain(trial, invariant, problem),
            case != found.case or found.stratum != PINNED,
        )

    def _smallest(
        self, family: Family, invariant: Invariant, found: NewFailure, smaller: list[Case]
    ) -> tuple[Problem, Case]:
        """The smallest case of a failure: one that was found for another failure of the invariant, or one that is looked for.

        A pinned case was not drawn and cannot be shrunk.
        """
        key = (found.problem.kind, found.problem.tensor)
        for case in smaller:
            problem = self._new_problem(Trial(family, case, self.loader), invariant, key)
            if problem is not None:
                return problem, case
        if found.stratum == PINNED:
            return found.problem, found.case
        problem, case = self._shrink(family, invariant, found.problem, found.case, found.stratum)
        smaller.append(case)
        return problem, case

    def _new_problem(self, trial: Trial, invariant: Invariant, key: tuple[str, str]) -> Problem | None:
        """The problem of a kind and tensor that an invariant finds on a trial and no entry explains, if there is one."""
        found = [p for p in judge(invariant, trial).problems if (p.kind, p.tensor) == key]
        return next((p for p in found if self.attribute(trial, invariant, p) is None), None)

    def _shrink(
        self, family: Family, invariant: Invariant, problem: Problem, case: Case, stratum: Stratum
    ) -> tuple[Problem, Case]:
        """The smallest case Hypothesis finds that still shows the same new problem."""
        key = (problem.kind, problem.tensor)
        smallest = (problem, case)
        answers: dict[str, Problem | None] = {}

        def visit(candidate: Case) -> None:
            nonlocal smallest
            text = candidate.to_json()
            if text not in answers and len(answers) < _SHRINK_BUDGET:
                answers[text] = self._new_problem(Trial(family, candidate, self.loader), invariant, key)
            answer = answers.get(text)
            if answer is not None:
                smallest = (answer, candidate)
                raise _Shown

        with contextlib.suppress(_Shown):
            self.drawing.shrink(family, stratum, visit)
        return smallest


class _Shown(Exception):
    """A candidate shows the failure being shrunk."""


def fingerprint_regimes(trial: Trial) -> str:
    """The regimes by which a case differs from the plainest one, as part of a fingerprint."""
    telling = {"equal-count-other-shape", "half-precision", "declared-absent", "declared-default"}
    shapes = {
        r for r in trial.regimes if r.startswith(("patch-", "grid-")) and not r.endswith(("native", "non-square"))
    }
    return "+".join(sorted(shapes | telling & trial.regimes | trial.family.tags(trial.case))) or "plain"
