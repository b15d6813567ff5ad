"""Judges the gate's cases on one release: which invariants hold for each case, and how the others fail.

A process of :mod:`timm_conformance.history.fixes`. It uses no ledger, no witnesses and no shrinking.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import msgspec
import torch

from ..cases.profiles import profile as profile_of
from ..drawing.drawing import Drawing
from ..engine.judging import judge
from ..engine.session import judging_settings
from ..families import FAMILIES
from ..invariants import INVARIANTS
from ..runner.worker import COLLECT_AFTER
from ..targets import subprocess_call
from ..targets.loader import Loader
from ..targets.target import parse_target, prepare
from ..trials.trial import Trial


class Request(msgspec.Struct, frozen=True):
    """The target, the draws, and the folder in which the processes share the drawn cases."""

    target: str
    families: list[str]
    profile: str
    seed: int
    cases: str


class Observed(msgspec.Struct, frozen=True):
    """One case on one release: the invariants that pass, and of those that fail each failure's kind and tensor."""

    passed: frozenset[str]
    failed: dict[str, list[tuple[str, str]]]
    regimes: frozenset[str]


# The cases of each family the release knows, in the order they are drawn.
Observations = dict[str, list[Observed]]


def observe(request: Request) -> Observations:
    """Judge every case by every invariant."""
    target = parse_target(request.target)
    prepare(target)
    drawing = Drawing(profile_of(request.profile), request.seed, focused=False, folder=Path(request.cases))
    with judging_settings():
        loader = Loader(target)
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        known = [FAMILIES[name] for name in request.families if loader.supports(FAMILIES[name])]
        return {
            family.name: [
                _observed(Trial(family, case, loader)) for drawn in drawing.cases(family).values() for case in drawn
            ]
            for family in known
        }


def _observed(trial: Trial) -> Observed:
    torch.manual_seed(trial.case.contents.seed)
    judgements = {i.name: judge(i, trial) for i in INVARIANTS.values() if i.concerns(trial.family)}
    passed = frozenset(name for name, judgement in judgements.items() if judgement.outcome == "pass")
    failed = {name: [(p.kind, p.tensor) for p in j.problems] for name, j in judgements.items() if j.outcome == "fail"}
    return Observed(passed, failed, trial.regimes if failed else frozenset())


if __name__ == "__main__":
    sys.exit(subprocess_call.serve(observe, Request))
