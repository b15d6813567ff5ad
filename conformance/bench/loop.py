"""The hand-written loop that the harness is measured against: ``python -m timm_conformance.bench.loop REQUEST ANSWER``.

It makes the same checkpoints, loads them with the same loader, judges every invariant on them, and replays the same witnesses.
It uses no Hypothesis, no worker, no ledger and no report: nothing is counted, shrunk or written.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch

from ..cases.case import Case
from ..engine.session import judging_settings
from ..families import FAMILIES
from ..invariants import INVARIANTS, Invariant
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..runner.worker import COLLECT_AFTER
from ..targets import subprocess_call
from ..targets.loader import Loader
from ..targets.models import Unsupported
from ..targets.target import parse_target
from ..trials.loaded import Blocked
from ..trials.trial import Trial
from .timing import Spent

_OF_THE_LOADER = ("convert", "model", "create_model")


class Request(msgspec.Struct):
    """The target, and the folder with the drawn cases of each family."""

    target: str
    families: list[str]
    cases: str


class Answer(msgspec.Struct):
    """How many cases were loaded, how many judgements were made, and what was spent inside the loader and timm's models."""

    cases: int
    checks: int
    inside: Spent


class _LoaderTimer:
    """Measures the time spent in the loader, its destination models and its files. Nested calls count once."""

    def __init__(self, loader: Loader) -> None:
        self.spent = Spent(0, 0)
        self.depth = 0
        for name in _OF_THE_LOADER:
            setattr(loader, name, self._timed(getattr(loader, name)))

    def _timed(self, method: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            self.depth += 1
            started = Spent.now()
            try:
                return method(*args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.spent += Spent.now() - started

        return call


def drawn(request: Request) -> Iterator[Case]:
    """The cases the harness drew."""
    for family in request.families:
        found = msgspec.json.decode((Path(request.cases) / f"{family}.json").read_bytes(), type=dict[str, list[Case]])
        for cases in found.values():
            yield from cases


def check(invariant: Invariant, trial: Trial) -> bool:
    """Judge one invariant on a case; returns whether it applied."""
    with contextlib.suppress(Blocked, Unsupported):
        if trial.undecidable or invariant.applies(trial):
            return False
        list(invariant.check(trial))
    return True


def answer(request: Request) -> Answer:
    """Judge the witnesses and cases of a request."""
    loader = Loader(parse_target(request.target))
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    inside, cases, checks = _LoaderTimer(loader), 0, 0
    with judging_settings():
        for witness in load_ledger(DEFAULT_LEDGER).witnesses.values():
            family = FAMILIES[witness.case.family]
            if family.name in request.families and loader.supports(family):
                torch.manual_seed(0)
                checks += check(INVARIANTS[witness.invariant], Trial(family, witness.case, loader))
        for case in drawn(request):
            family = FAMILIES[case.family]
            if loader.supports(family):
                torch.manual_seed(case.contents.seed)
                trial, cases = Trial(family, case, loader), cases + 1
                checks += sum([check(i, trial) for i in INVARIANTS.values() if i.concerns(family)])
    return Answer(cases, checks, inside.spent)


if __name__ == "__main__":
    sys.exit(subprocess_call.serve(answer, Request))
