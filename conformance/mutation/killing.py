"""Judges mutants in a process that has judged every case on the clean loader before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from ..cases.case import Case
from ..drawing.drawing import Drawing
from ..engine.explorer import Explorer
from ..engine.judging import judge
from ..engine.replaying import replay as replay_witness
from ..errors import UserError
from ..families import FAMILIES, Family
from ..invariants import INVARIANTS
from ..ledger.entries import Ledger
from ..reference.formats import rules
from ..targets.caches import cache_clearers
from ..targets.loader import Loader
from ..targets.models import Unsupported
from ..targets.target import MODEL_RELEASE, parse_target
from ..trials.expectation import Expectation
from ..trials.trial import Trial
from . import format_tables, project_tests
from .functions import Function, loader_functions
from .line_coverage import Lines, changed_lines
from .mutants import mutants_of
from .score import Fate, Mutant

WITNESS = "witness"  # a known bug's witness that no longer fails, or fails in another way
TESTS = "tests"  # the project's own
_CASE, _WITNESS, _TEST = range(3)  # in the order of judging
_RULES = rules.__file__
_CACHED_MODULES = ("timm_conformance.reference", "timm_conformance.trials.bounds")
# After two invariants have killed a mutant, judging stops; the matrix is complete for mutants with fewer kills.
_ENOUGH = 2
_ENOUGH_OF_REFERENCE = 1  # one kill is enough: each line of the reference must be checked by something
# How many of the cases that a mutant of the reference loads as before are judged. Further ones hardly ever kill it.
_MAX_UNCHANGED = 64
# A mutant of the reference is judged first by so many cases of a family or parameters of a test, and by tests of so many seconds.
_FEW, _SECONDS = 6, 12.0


@dataclass
class Candidate:
    """A case, a witness or a test that judges mutants, with the lines it runs on the clean loader.

    ``name`` is a case's description, a witness's name or a test's id. ``loaded`` is the result of a case's plain load,
    ``load_lines`` the lines that it runs, ``shared`` the part of its trial that does not depend on the loader.
    """

    name: str = ""
    subject: tuple[Family, Case] | None = None
    rank: int = 0
    lines: frozenset[tuple[str, int]] = frozenset()
    seconds: float = 0.0
    load_lines: frozenset[tuple[str, int]] = frozenset()
    loaded: tuple = ()
    shared: dict[str, Any] | None = None

    @property
    def family(self) -> Family:
        """The family of a case or a witness; a test has none."""
        assert self.subject is not None, self.name
        return self.subject[0]

    @property
    def case(self) -> Case:
        """The case, or that of a witness; a test has none."""
        assert self.subject is not None, self.name
        return self.subject[1]

    @property
    def raises(self) -> bool:
        """Whether its plain load raises, so that ``loaded`` is the exception's type and text."""
        return bool(self.loaded) and isinstance(self.loaded[0], str)


class MutantJudge:
    """A loader with its mutants, and the cases and witnesses that judge them."""

    def __init__(self, loader: Loader, ledger: Ledger, drawing: Drawing, families: Iterable[str]) -> None:
        self.loader = loader
        self.explorer = Explorer(loader, ledger, INVARIANTS.values(), drawing)
        self._explorers = [self.explorer]
        self.families = [FAMILIES[name] for name in families if loader.supports(FAMILIES[name])]
        self.functions = loader_functions(loader)
        self.candidates: list[Candidate] = []
        self._made: dict[str, frozenset[tuple[str, int]]] = {}
        self._of_reference = loader.target.kind == "reference"
        self._enough = _ENOUGH_OF_REFERENCE if self._of_reference else _ENOUGH
        self._cache_clearers = cache_clearers(*_CACHED_MODULES) if self._of_reference else []
        if self._of_reference:  # a run judges timm by the reference, so by the mutant
            other = Loader(parse_target(f"timm=={MODEL_RELEASE}"))
            self._explorers.append(Explorer(other, ledger, INVARIANTS.values(), drawing))

    @cached_property
    def by_name(self) -> dict[str, Function]:
        """The functions by their names."""
        return {f.name: f for f in self.functions}

    def mutants(self, wanted: Callable[[str], bool]) -> list[Mutant]:
        """The mutants of the wanted functions."""
        return [mutant for f in self.functions if wanted(f.name) for mutant in mutants_of(f)]

    # -- the clean loader --------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Judge every case and witness on the clean loader. Raises :class:`UserError` if an invariant fails there."""
        self._made = format_tables.lines_of(self.functions) if self._of_reference else {}
        for family in self.families:
            for drawn in self.explorer.drawing.cases(family).values():
                for case in drawn:
                    self._prepare(Candidate(case.describe(), (family, case)))
        names = {f.name for f in self.families}
        for name, witness in self.explorer.ledger.witnesses.items():
            if witness.case.family in names:
                self._prepare(Candidate(name, (FAMILIES[witness.case.family], witness.case), _WITNESS))
        run = frozenset().union(*(candidate.lines for candidate in self.candidates))
        self.functions = [f for f in self.functions if not f.if_run or f.is_run(run)]
        if self._of_reference:
            for test, (lines, took) in project_tests.measure_tests(self.functions).items():
                # One that reads or writes a checkpoint may do so in any format: all tables are behind it.
                tables_of = self._made.values() if any(file == _RULES for file, _ in lines) else ()
                self.candidates.append(Candidate(test, rank=_TEST, lines=lines.union(*tables_of), seconds=took))

    def _prepare(self, candidate: Candidate) -> None:
        self._clear_caches()
        started = time.perf_counter()
        with Lines(self.functions) as lines:
            killers, errors = self._judge(candidate)
        if killers or errors:
            raise UserError(
                f"{self.loader.target.spec}: the clean loader fails {', '.join(sorted(killers | errors))} on "
                f"{candidate.name}; `timm-conformance run` shows details. Mutants are compared with a loader "
                "that fails only as the ledger says"
            )
        candidate.seconds = time.perf_counter() - started
        candidate.lines = self._made.get(candidate.family.format, frozenset()) | lines.seen
        self._clear_caches()
        with Lines(self.functions) as lines:
            candidate.loaded = self._load(candidate)
        candidate.load_lines = self._made.get(candidate.family.format, frozenset()) | lines.seen
        self.candidates.append(candidate)

    def _judge(self, candidate: Candidate) -> tuple[set[str], set[str]]:
        """The invariants that fail on the loader as it is now; and those that met a mistake of the suite."""
        killers: set[str] = set()
        errors: set[str] = set()
        for explorer in self._explorers:
            if explorer.loader.supports(candidate.family) and not (killers and self._of_reference):
                more, mistaken = self._judged_by(explorer, candidate)
                killers |= more
                errors |= mistaken
        return killers, errors

    def _judged_by(self, explorer: Explorer, candidate: Candidate) -> tuple[set[str], set[str]]:
        if candidate.rank == _WITNESS:
            witness = explorer.ledger.witness(candidate.name)
            replay = replay_witness(explorer, candidate.name, witness, candidate.family)
            return (set() if replay.expected else {WITNESS}), set()
        trial = self._trial(candidate, explorer.loader)
        killers: set[str] = set()
        errors: set[str] = set()
        for invariant in explorer.invariants:
            if not (invariant.concerns(candidate.family) and invariant.judges(explorer.loader.target)):
                continue
            judgement = judge(invariant, trial)
            if judgement.outcome == "error":  # of the suite, whose oracle the reference is: a run would end with it
                (killers if self._of_reference else errors).add(invariant.name)
            if any(explorer.attribute(trial, invariant, p) is None for p in judgement.problems):
                killers.add(invariant.name)
            if killers and self._of_reference:
                break
        if candidate.shared is None and not self._of_reference:  # whose mutants change what is expected
            candidate.shared = {k: v for k, v in trial.__dict__.items() if hasattr(Expectation, k) or k == "_bounds"}
        return killers, errors

    def _trial(self, candidate: Candidate, loader: Loader) -> Trial:
        trial = Trial(candidate.family, candidate.case, loader)
        trial.__dict__.update(candidate.shared or {})
        torch.manual_seed(candidate.case.contents.seed)
        return trial

    def _clear_caches(self) -> None:
        """Clear the reference's caches: a cached result would hide a mutant, and the lines that compute it."""
        for clear in self._cache_clearers:
            clear()

    def _load(self, candidate: Candidate) -> tuple:
        """The result of a case's plain load, bit for bit. It costs a tenth of judging the case."""
        try:
            loaded = self._trial(candidate, self.loader).base
        except Unsupported as missing:  # the release has no model for the case
            return type(missing).__name__, str(missing)
        if not loaded.ok:
            return type(loaded.error).__name__, str(loaded.error)
        return tuple((name, t.dtype, t.shape, _bits(t)) for name, t in sorted(loaded.raw.items()))

    # -- a mutant ----------------------------------------------------------------------------------------------------

    def reached(self, mutant: Mutant) -> list[Candidate]:
        """The cases that run the changed lines, the quickest of each family in turn; then witnesses, then tests.

        Cases that do not load are the quickest but detect the least, so they come after all that load.
        """
        wanted = changed_lines(self.by_name[mutant.function], mutant.line, mutant.lines)
        found = sorted(
            (k for k in self.candidates if not wanted.isdisjoint(k.lines)), key=lambda k: (k.raises, k.seconds)
        )
        turns: Counter[str] = Counter()
        order = []
        for candidate in found:
            name = candidate.family.name if candidate.subject else ""
            turns[name] += 1
            order.append((candidate.rank, candidate.raises, turns[name]))
        return [candidate for _, candidate in sorted(zip(order, found), key=lambda pair: pair[0])]

    def quickest(self, reached: list[Candidate]) -> list[Candidate]:
        """A few cases of each family, and tests of a few seconds: these kill most mutants of the reference.

        For a timm release all cases: judging ends after two invariants have killed the mutant.
        """
        if not self._of_reference:
            return reached
        few: list[Candidate] = []
        turns: Counter[str] = Counter()
        spent = 0.0
        for candidate in reached:
            name = candidate.name.partition("[")[0] if candidate.rank == _TEST else candidate.family.name
            spent += candidate.seconds if candidate.rank == _TEST else 0.0
            turns[name] += 1
            if turns[name] <= _FEW and spent <= _SECONDS:
                few.append(candidate)
        return few

    def judge_mutants(self, mutants: Iterable[Mutant], cases: Callable[[Mutant], list[Candidate]]) -> Iterator[Fate]:
        """Judge one mutant after the other. Ends early if a mutant left something behind that changes the clean loader."""
        for mutant in mutants:
            function, candidates = self.by_name[mutant.function], cases(mutant)
            with function.replaced_by(mutant.source), format_tables.changed_tables(function, mutant.source):
                self._clear_caches()
                fate = self._fate(candidates, changed_lines(function, mutant.line, mutant.lines))
            self._clear_caches()
            yield fate
            if any(self._load(k) != k.loaded for k in candidates[:1] if k.rank == _CASE):
                return

    def _fate(self, cases: list[Candidate], changed: frozenset[tuple[str, int]]) -> Fate:
        """Judge the loader as it is now until enough invariants have killed it; first on the cases that load differently.

        A case whose plain load runs none of the ``changed`` lines loads as before.
        """
        killers: set[str] = set()
        errors: set[str] = set()
        same: list[Candidate] = []
        judged = 0

        def others() -> Iterator[Candidate]:
            for candidate in cases:
                runs = candidate.rank == _CASE and not changed.isdisjoint(candidate.load_lines)
                if runs and self._load(candidate) != candidate.loaded:
                    yield candidate
                else:
                    same.append(candidate)

        alike = self._unchanged_to_judge(same)
        for candidate in chain(others(), islice(alike, _FEW), [None], alike):
            if len(killers) >= self._enough:
                break
            if candidate is None:  # the tests come before many cases that hardly ever kill
                tests = [test.name for test in cases if test.rank == _TEST]
                killers |= {TESTS} if tests and project_tests.any_test_fails(tests) else set()
                continue
            more, mistaken = self._judge(candidate)
            killers |= more
            errors |= mistaken
            judged += 1
        return Fate(sorted(killers), judged, len(cases), errors=sorted(errors))

    def _unchanged_to_judge(self, same: list[Candidate]) -> Iterator[Candidate]:
        """The cases and witnesses of ``same`` to judge. ``same`` is filled after this call."""
        cases = (candidate for candidate in same if candidate.rank == _CASE)
        witnesses = (candidate for candidate in same if candidate.rank == _WITNESS)
        return chain(islice(cases, _MAX_UNCHANGED if self._of_reference else None), witnesses)


def _bits(tensor: Tensor) -> int:
    return hash(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
