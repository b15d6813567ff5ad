"""A hunt: judges rounds of cases, each drawn with another seed, until the time is over, and adds up what they find.

A round judges the same cases as ``run`` with that seed, so a finding can be drawn again. Each round has its own order of
families, so that the end of the time does not always cut off the same ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

from msgspec.structs import replace

from ..results.merging import merge_results
from ..results.records import SEVERITY, Failure, Header, Record, Results, Round, TargetError, Verdict
from .plan import INTERRUPTED, Plan
from .run import run as run_plan


def hunt(
    plan: Plan,
    minutes: float,
    *,
    watching: Callable[[Plan], AbstractContextManager[Callable[[Record], None]]],
    tell: Callable[[str], None],
    keep: Callable[[Results], None],
) -> Results:
    """Run rounds of a plan, from its own seed upwards, for so many minutes; returns the sum of their results.

    The first round replays the stored witnesses, and judges something however short the time is. When the time is over,
    the hunt finishes what is being judged and starts nothing more. An interrupt ends it as well.

    ``watching`` opens the callback that gets the records of a round. ``tell`` gets one line about each round. ``keep`` gets
    the sum so far between two rounds, so that a killed hunt loses only one round.
    """
    until = time.time() + 60 * minutes
    found = Results()
    seeds = itertools.count(plan.selection.seed)
    while True:
        seed = next(seeds)
        order = random.Random(seed)
        shares = {t: tuple(order.sample(families, len(families))) for t, families in _families(plan).items()}
        selection = replace(plan.selection, seed=seed)
        replay = not found.rounds
        here = dataclasses.replace(plan, selection=selection, shares=shares, parts=None, replay=replay, until=until)
        started = time.monotonic()
        with watching(here) as watch:
            records = run_plan(here, watch).records
        judged = Results(r for r in records if not (isinstance(r, Verdict) and r.reason == INTERRUPTED))
        whole = not here.over and len(judged.records) == len(records)
        cases = _cases(judged)
        if found.rounds and not cases:
            return found
        judged.add(Round(seed, cases, round(time.monotonic() - started, 3), whole))
        found = add_round(found, judged)
        tell(_round_line(judged, until))
        if not whole:
            for target in plan.targets if len(found.rounds) == 1 else ():
                if target not in found.targets:
                    found.add(TargetError(target, "the time was over before it was begun; give a hunt more --minutes"))
            return found
        keep(found)


def _families(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {target: plan.families_of(target) for target in plan.targets}


def _cases(judged: Results) -> int:
    """The number of judged cases. Every invariant that concerns a family judges all its cases, so the largest count is used."""
    counts: Counter[tuple[str, str]] = Counter()
    for v in judged.verdicts:
        counts[v.target, v.family] = max(counts[v.target, v.family], sum(v.cases.values()))
    return counts.total()


def _round_line(judged: Results, until: float) -> str:
    """One line about a round."""
    (here,) = judged.rounds
    new = {(v.target, f.fingerprint) for v in judged.verdicts for f in v.failures}
    left = max(0.0, until - time.time()) / 60
    return f"seed {here.seed}: {here.cases} cases in {here.seconds:.0f} s, {len(new)} new failures; {left:.1f} minutes left"


def add_round(found: Results, more: Results) -> Results:
    """Add the results of one more round to those of earlier rounds. Verdicts are added up; of other records the later counts.

    Headers keep the first round's seed; the :class:`Round` records name all seeds.
    """
    if not found.records:
        return merge_results([more])
    before = {(v.target, v.family, v.invariant): v for v in found.verdicts}
    seed = found.headers[0].seed if found.headers else None
    records = []
    for record in more.records:
        if isinstance(record, Header) and seed is not None:
            record = replace(record, seed=seed)
        elif isinstance(record, Verdict) and (earlier := before.get((record.target, record.family, record.invariant))):
            record = _sum_verdicts(earlier, record)
        records.append(record)
    return merge_results([found, Results(records)])


def _sum_verdicts(a: Verdict, b: Verdict) -> Verdict:
    """Combine two verdicts on one invariant: the worse one, on the cases of both."""
    worse = min(a, b, key=lambda v: SEVERITY.index(v.verdict))
    regimes = _sum_counts(a.regimes, b.regimes)
    return replace(
        worse,
        cases=_sum_counts(a.cases, b.cases),
        sought=_sum_counts(a.sought, b.sought),
        regimes=regimes,
        excused=sorted({*a.excused, *b.excused} - regimes.keys()),
        known=_sum_counts(a.known, b.known),
        failures=_merge_failures([*a.failures, *b.failures]),
        worst=max((v.worst for v in (a, b) if v.worst is not None), default=None),
    )


def _sum_counts(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in sorted({*a, *b})}


def _merge_failures(failures: list[Failure]) -> list[Failure]:
    """Combine failures of one fingerprint, and keep the case of the first."""
    found: dict[str, Failure] = {}
    for failure in failures:
        same = found.get(failure.fingerprint)
        found[failure.fingerprint] = replace(same, count=same.count + failure.count) if same else failure
    return list(found.values())
