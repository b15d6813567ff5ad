"""Judges mutants in a process that has judged every case on the clean loader already."""

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
from ..errors import UserError
from ..families import FAMILIES, Family
from ..invariants import INVARIANTS
from ..ledger.entries import Ledger
from ..reference.formats import rules
from ..targets.caches import caches
from ..targets.loader import Loader, Unsupported
from ..targets.target import MODEL_RELEASE, parse_target
from ..trials.expectation import Expectation
from ..trials.trial import Trial
from . import format_tables, project_tests
from .functions import Function, loader_functions
from .line_coverage import Lines, header
from .mutants import mutants_of
from .score import Fate, Mutant

WITNESS = "witness"  # a known bug's witness that no longer fails, or fails otherwise
TESTS = "tests"  # the project's own
_CASE, _WITNESS, _TEST = range(3)  # what judges first
_RULES = rules.__file__
_REMEMBERS = ("timm_conformance.reference", "timm_conformance.trials.bounds")
# A mutant that two promises have killed tells nothing more about any promise; the matrix is complete for fewer.
_ENOUGH = 2
_ENOUGH_OF_REFERENCE = 1  # is noticed or not: what counts is that its every line is held by something
# Of the cases a mutant of the reference loads as before, so many are judged: one after that hardly ever tells more.
_ALIKE = 64
# What a mutant of the reference is judged by first: cases of a family, or that a test is parametrized with; seconds of tests.
_FEW, _SECONDS = 6, 12.0


@dataclass
class Known:
    """A case, a witness by its name or a test by its id, as the clean loader has it: the lines it ran.

    ``loaded`` is what a case's plain load came to, ``shared`` what of its trial no loader changes.
    """

    name: str = ""
    family: Family | None = None
    case: Case | None = None
    rank: int = 0
    lines: frozenset[tuple[str, int]] = frozenset()
    seconds: float = 0.0
    loaded: tuple = ()
    shared: dict[str, Any] | None = None

    @property
    def raises(self) -> bool:
        """Whether its plain load raises, so that ``loaded`` is the exception's type and text."""
        return bool(self.loaded) and isinstance(self.loaded[0], str)


class Stand:
    """A loader with its mutants, and the cases and witnesses that judge them."""

    def __init__(self, loader: Loader, ledger: Ledger, drawing: Drawing, families: Iterable[str]) -> None:
        self.loader = loader
        self.explorer = Explorer(loader, ledger, INVARIANTS.values(), drawing)
        self._explorers = [self.explorer]
        self.families = [FAMILIES[name] for name in families if loader.supports(FAMILIES[name])]
        self.functions = loader_functions(loader)
        self.known: list[Known] = []
        self._made: dict[str, frozenset[tuple[str, int]]] = {}
        self._headers: dict[tuple[str, int, int], range] = {}
        self._of_reference = loader.target.kind == "reference"
        self._enough = _ENOUGH_OF_REFERENCE if self._of_reference else _ENOUGH
        self._remembered = caches(*_REMEMBERS) if self._of_reference else []
        if self._of_reference:  # a run would judge timm by the mutant, too
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
        """Judge every case and witness on the clean loader, which must survive. Raises :class:`UserError`."""
        self._made = format_tables.lines_of(self.functions) if self._of_reference else {}
        for family in self.families:
            for drawn in self.explorer.drawing.cases(family).values():
                for case in drawn:
                    self._prepare(Known(case.describe(), family, case))
        names = {f.name for f in self.families}
        for name, witness in self.explorer.ledger.witnesses.items():
            if witness.case.family in names:
                self._prepare(Known(name, FAMILIES[witness.case.family], witness.case, _WITNESS))
        if self._of_reference:
            for test, (lines, took) in project_tests.watched(self.functions).items():
                # One that reads or writes a checkpoint may do so in any format: all tables are behind it.
                tables_of = self._made.values() if any(file == _RULES for file, _ in lines) else ()
                self.known.append(Known(test, rank=_TEST, lines=lines.union(*tables_of), seconds=took))

    def _prepare(self, known: Known) -> None:
        self._forget()
        started = time.perf_counter()
        with Lines(self.functions) as lines:
            killers, errors = self._judge(known)
        if killers or errors:
            raise UserError(
                f"{self.loader.target.spec}: the clean loader does not survive {', '.join(sorted(killers | errors))} on "
                f"{known.name}; `timm-conformance run` tells more: mutants are told from a loader "
                "that is as the ledger says"
            )
        known.seconds = time.perf_counter() - started
        known.lines = self._made.get(known.family.format, frozenset()) | lines.seen
        known.loaded = self._load(known)
        self.known.append(known)

    def _judge(self, known: Known) -> tuple[set[str], set[str]]:
        """The promises that tell the loader, as it is now, from what it should be; and those with a mistake of the suite."""
        killers, errors = set(), set()
        for explorer in self._explorers:
            if explorer.loader.supports(known.family) and not (killers and self._of_reference):
                more, mistaken = self._judged_by(explorer, known)
                killers |= more
                errors |= mistaken
        return killers, errors

    def _judged_by(self, explorer: Explorer, known: Known) -> tuple[set[str], set[str]]:
        if known.rank == _WITNESS:
            witness = explorer.ledger.witness(known.name)
            replay = explorer.replay(known.name, witness, known.family)
            return (set() if replay.expected else {WITNESS}), set()
        trial = self._trial(known, explorer.loader)
        killers, errors = set(), set()
        for invariant in explorer.invariants:
            if not invariant.concerns(known.family):
                continue
            judgement = judge(invariant, trial)
            if judgement.outcome == "error":  # of the suite, whose oracle the reference is: a run would end with it
                (killers if self._of_reference else errors).add(invariant.name)
            if any(explorer.attribute(trial, invariant, p) is None for p in judgement.problems):
                killers.add(invariant.name)
            if killers and self._of_reference:
                break
        if known.shared is None and not self._of_reference:  # whose mutants change what is expected
            known.shared = {k: v for k, v in trial.__dict__.items() if hasattr(Expectation, k) or k == "_bounds"}
        return killers, errors

    def _trial(self, known: Known, loader: Loader) -> Trial:
        trial = Trial(known.family, known.case, loader)
        trial.__dict__.update(known.shared or {})
        torch.manual_seed(known.case.contents.seed)
        return trial

    def _forget(self) -> None:
        """Of the reference, what it computed before it became another; a case would not come past it either."""
        for forget in self._remembered:
            forget()

    def _load(self, known: Known) -> tuple:
        """What the plain load of a case comes to, bit for bit; a tenth of what judging the case costs."""
        try:
            loaded = self._trial(known, self.loader).base
        except Unsupported as missing:  # the release has no model for the case
            return type(missing).__name__, str(missing)
        if loaded.raw is None:
            return type(loaded.error).__name__, str(loaded.error)
        return tuple((name, t.dtype, t.shape, _bits(t)) for name, t in sorted(loaded.raw.items()))

    # -- a mutant ----------------------------------------------------------------------------------------------------

    def reached(self, mutant: Mutant) -> list[Known]:
        """The cases that come past the changed lines, of each family in turn its quickest; then witnesses, then tests.

        Those that do not load are quickest and tell least: they come after all that do.
        """
        function = self.by_name[mutant.function]
        key = (mutant.function, mutant.line, mutant.line + mutant.lines - 1)
        if key not in self._headers:
            self._headers[key] = header(function, *key[1:])
        file = function.function.__code__.co_filename
        wanted = {(file, line) for line in self._headers[key]}
        found = sorted((k for k in self.known if not wanted.isdisjoint(k.lines)), key=lambda k: (k.raises, k.seconds))
        turns: Counter[str] = Counter()
        order = []
        for known in found:
            name = known.family.name if known.family else ""
            turns[name] += 1
            order.append((known.rank, known.raises, turns[name]))
        return [known for _, known in sorted(zip(order, found), key=lambda pair: pair[0])]

    def quickest(self, reached: list[Known]) -> list[Known]:
        """A few of each family, and tests of a few seconds: most mutants of the reference go no further.

        Of a timm release all: two promises end it soon enough.
        """
        if not self._of_reference:
            return reached
        few, turns, spent = [], Counter(), 0.0
        for known in reached:
            name = known.name.partition("[")[0] if known.rank == _TEST else known.family.name
            spent += known.seconds if known.rank == _TEST else 0.0
            turns[name] += 1
            if turns[name] <= _FEW and spent <= _SECONDS:
                few.append(known)
        return few

    def fates(self, mutants: Iterable[Mutant], cases: Callable[[Mutant], list[Known]]) -> Iterator[Fate]:
        """Be one mutant after the other; ends early where one left something behind that changes the clean loader."""
        for mutant in mutants:
            function, known = self.by_name[mutant.function], cases(mutant)
            with function.being(mutant.source), format_tables.remade(function, mutant.source):
                self._forget()
                fate = self._fate(known)
            self._forget()
            yield fate
            if any(self._load(k) != k.loaded for k in known[:1] if k.rank == _CASE):
                return

    def _fate(self, cases: list[Known]) -> Fate:
        """Judge what the loader is now until promises enough have killed it, first on the cases it loads otherwise."""
        killers, errors, judged, same = set(), set(), 0, []

        def others() -> Iterator[Known]:
            for known in cases:
                if known.rank == _CASE and self._load(known) != known.loaded:
                    yield known
                else:
                    same.append(known)

        alike = self._alike(same)
        for known in chain(others(), islice(alike, _FEW), [None], alike):
            if len(killers) >= self._enough:
                break
            if known is None:  # it is the tests' turn, before many cases that are hardly any use
                tests = [test.name for test in cases if test.rank == _TEST]
                killers |= {TESTS} if tests and project_tests.noticed(tests) else set()
                continue
            more, mistaken = self._judge(known)
            killers |= more
            errors |= mistaken
            judged += 1
        return Fate(sorted(killers), judged, len(cases), errors=sorted(errors))

    def _alike(self, same: list[Known]) -> Iterator[Known]:
        """The cases and witnesses of ``same`` to judge, which is filled only after this is called."""
        cases = (known for known in same if known.rank == _CASE)
        witnesses = (known for known in same if known.rank == _WITNESS)
        return chain(islice(cases, _ALIKE if self._of_reference else None), witnesses)


def _bits(tensor: Tensor) -> int:
    return hash(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
