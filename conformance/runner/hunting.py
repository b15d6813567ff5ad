"""A hunt: rounds of cases, each drawn by another seed, until the time is over; what they found is added up.

A round is what ``run`` judges by that seed, so whatever it shows is drawn again by it. Its families come in an order of the
round's own: the time never ends before the same ones.
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

from ..results.merging import overlay
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
    """Run rounds of a plan, from its own seed upwards, for so many minutes; returns the sum of what they found.

    Stored witnesses are replayed in the first round, which judges something however short the time is. When the time is
    over, what is being judged is finished and nothing more is begun; an interrupt ends a hunt as well.

    ``watching`` opens what sees the records of a round as they come; ``tell`` is given a line about each round; ``keep``
    is given the sum so far between two rounds, so that a hunt that is killed loses one round only.
    """
    until = time.time() + 60 * minutes
    found = Results()
    for seed in itertools.count(plan.selection.seed):
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
        found = added(found, judged)
        tell(_told(judged, until))
        if not whole:
            for target in plan.targets if len(found.rounds) == 1 else ():
                if target not in found.targets:
                    found.add(TargetError(target, "the time was over before it was begun; give a hunt more --minutes"))
            return found
        keep(found)


def _families(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {target: plan.families_of(target) for target in plan.targets}


def _cases(judged: Results) -> int:
    """Every case is judged by every invariant that concerns its family, so any of them has counted all."""
    counts: Counter[tuple[str, str]] = Counter()
    for v in judged.verdicts:
        counts[v.target, v.family] = max(counts[v.target, v.family], sum(v.cases.values()))
    return counts.total()


def _told(judged: Results, until: float) -> str:
    """A round in one line."""
    (here,) = judged.rounds
    new = {(v.target, f.fingerprint) for v in judged.verdicts for f in v.failures}
    left = max(0.0, until - time.time()) / 60
    return f"seed {here.seed}: {here.cases} cases in {here.seconds:.0f} s, {len(new)} new failures; {left:.1f} minutes left"


def added(found: Results, more: Results) -> Results:
    """What earlier rounds found with what one more has: verdicts of one promise added up, of all else the later.

    Headers keep the first round's seed; the rounds tell them all.
    """
    if not found.records:
        return overlay([more])
    before = {(v.target, v.family, v.invariant): v for v in found.verdicts}
    seed = found.headers[0].seed if found.headers else None
    records = []
    for record in more.records:
        if isinstance(record, Header) and seed is not None:
            record = replace(record, seed=seed)
        elif isinstance(record, Verdict) and (earlier := before.get((record.target, record.family, record.invariant))):
            record = _sum(earlier, record)
        records.append(record)
    return overlay([found, Results(records)])


def _sum(a: Verdict, b: Verdict) -> Verdict:
    """Two verdicts on one promise as one: the worse, on the cases of both."""
    worse = min(a, b, key=lambda v: SEVERITY.index(v.verdict))
    regimes = _total(a.regimes, b.regimes)
    return replace(
        worse,
        cases=_total(a.cases, b.cases),
        regimes=regimes,
        excused=sorted({*a.excused, *b.excused} - regimes.keys()),
        known=_total(a.known, b.known),
        failures=_united([*a.failures, *b.failures]),
        worst=max((v.worst for v in (a, b) if v.worst is not None), default=None),
    )


def _total(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(a) + Counter(b)).items()))


def _united(failures: list[Failure]) -> list[Failure]:
    """Failures of one fingerprint as one, the first that was met."""
    found: dict[str, Failure] = {}
    for failure in failures:
        same = found.get(failure.fingerprint)
        found[failure.fingerprint] = replace(same, count=same.count + failure.count) if same else failure
    return list(found.values())
