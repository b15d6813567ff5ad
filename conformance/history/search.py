"""Looks on one release for cases that show ledger entries in families in which the gate's cases do not.

A process of :mod:`timm_conformance.history.claims`. A case that showed the entry in another release is tried first. Then come
the candidates of :mod:`timm_conformance.history.candidates`, of which only those in the entry's regime are judged.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from itertools import chain, islice

import msgspec
import torch
from msgspec.structs import replace

from ..cases.case import Case
from ..drawing.catalogue import models_of
from ..engine.judging import judge
from ..engine.session import judging_settings
from ..families import FAMILIES, Family
from ..invariants import INVARIANTS
from ..ledger.entries import Entry
from ..runner.worker import COLLECT_AFTER
from ..targets import subprocess_call
from ..targets.loader import Loader
from ..targets.target import parse_target, prepare
from ..trials.trial import Trial
from .candidates import candidates


class Wanted(msgspec.Struct, frozen=True):
    """An entry to see in a family: its witness, ``cases`` that showed it in another release, and whether to search for others."""

    entry: Entry
    family: str
    witness: Case
    cases: list[Case] = []
    search: bool = False


class Request(msgspec.Struct, frozen=True):
    """The target, what to look for, and how many cases to judge for each."""

    target: str
    wanted: list[Wanted]
    budget: int


class Found(msgspec.Struct, frozen=True):
    """A failure that an entry covers: its signature ``invariant:kind:tensor``, the condition of its regime, and the case."""

    entry: str
    family: str
    failure: str
    regime: str
    case: Case


def look(request: Request) -> list[Found]:
    """What was seen of what is wanted: for each entry and family all failures of the first case that shows one."""
    target = parse_target(request.target)
    prepare(target)
    with judging_settings():
        loader = Loader(target)
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        return [seen for wanted in request.wanted for seen in _look(wanted, request.budget, loader)]


def _look(wanted: Wanted, budget: int, loader: Loader) -> list[Found]:
    family = FAMILIES[wanted.family]
    if not loader.supports(family):
        return []
    drawn = islice(_judged(wanted, family, loader), budget) if wanted.search else ()
    before = (_of_known_model(family, case, loader) for case in wanted.cases)
    shown = (_shown(wanted.entry, family, case, loader) for case in chain(before, drawn))
    return next(filter(None, shown), [])


def _judged(wanted: Wanted, family: Family, loader: Loader) -> Iterator[Case]:
    """Candidates in the entry's regime that the release supports."""
    for candidate in candidates(wanted.entry, family, wanted.witness):
        case = _of_known_model(family, candidate, loader)
        trial = Trial(family, case, loader)
        if wanted.entry.meets(trial.regimes) and trial.undecidable is None:
            yield case


def _of_known_model(family: Family, case: Case, loader: Loader) -> Case:
    """The case with a registered model that the release has, in place of one that it does not have."""
    if loader.knows_model(case.model_name):
        return case
    names = (model.name for model in models_of(family) if family.by_model(model.name).items() <= case.arch.items())
    return replace(case, model_name=next(filter(loader.knows_model, names), case.model_name))


def _shown(entry: Entry, family: Family, case: Case, loader: Loader) -> list[Found]:
    """The failures of a case that the entry covers."""
    trial = Trial(family, case, loader)
    torch.manual_seed(case.contents.seed)
    return [seen for invariant in _claimed(entry, family) for seen in _failures(entry, invariant, trial)]


def _claimed(entry: Entry, family: Family) -> Iterator[str]:
    """The invariants that the entry says fail in a family, if they concern it."""
    for invariant in INVARIANTS.values():
        if entry.claims(family.name, invariant.name) and invariant.concerns(family):
            yield invariant.name


def _failures(entry: Entry, invariant: str, trial: Trial) -> Iterator[Found]:
    for problem in judge(INVARIANTS[invariant], trial).problems:
        if entry.covers(trial.family.name, invariant, problem.kind, problem.tensor, trial.regimes):
            failure, regime = f"{invariant}:{problem.kind}:{problem.tensor}", entry.conditions(trial.regimes)[0]
            yield Found(entry.id, trial.family.name, failure, regime, trial.case)


if __name__ == "__main__":
    sys.exit(subprocess_call.serve(look, Request))
