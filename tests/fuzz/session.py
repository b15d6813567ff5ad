"""Looking for files that our code does not survive, for as long as there is time; the smallest of each kind is kept."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.strategies import SearchStrategy

from timm_conformance.cases.case import Case
from timm_conformance.cases.profiles import profile
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.drawing.hypothesis_internals import register_unvaried
from timm_conformance.families import FAMILIES

from .feeding import feed
from .files import OUTCOME, Input, inputs, stored
from .states import Pool
from .watch import LIMITS, Limits, Outcome, Watch

Feed = Callable[[Path, Case], str]
_BATCH = 100
# A forward pass over more takes as much memory on a checkpoint that is whole as a blow-up would.
_MOST_TOKENS = 1024


# Of variations on earlier inputs, too few fit together to be worth the time.
_BACKEND = register_unvaried()


class _Found(Exception):
    """Tells Hypothesis to look for a smaller input that ends the same way."""


class _OutOfTime(BaseException):
    """Ends a batch at once: Hypothesis takes any :class:`Exception` for another failure."""


class Session:
    """A search from ``seed`` on, of which findings are written to folders in ``out``, named by what happens.

    ``shrinking`` is how many seconds go into making one smaller. ``counts`` are the inputs by kind of outcome, ``findings``
    the folders by kind and place.
    """

    def __init__(self, seed: int, out: Path, feed: Feed = feed, limits: Limits = LIMITS, shrinking: float = 30) -> None:
        self.seed = seed
        self.out = out
        self.feed = feed
        self.limits = limits
        self.shrinking = shrinking
        self.counts: Counter[str] = Counter()
        self.findings: dict[tuple[str, str], Path] = {}
        self.seconds = 0.0

    def look(self, seconds: float) -> None:
        """Feed inputs for so many seconds, family after family; a finding made before is counted and not looked for again."""
        started = time.monotonic()
        families = list(FAMILIES.values())
        random.Random(self.seed).shuffle(families)
        others: list[Case] = []
        for turn in itertools.count(self.seed * 10**6):
            if time.monotonic() - started > seconds:
                break
            drawn = Drawing(profile("smoke"), turn).cases(families[turn % len(families)])
            cases = [case for stratum in drawn.values() for case in stratum if case.source.tokens <= _MOST_TOKENS]
            with Watch(self._fed, self.limits) as watch:
                self._batch(watch, inputs(Pool(cases, others or cases)), turn, started + seconds)
            others = cases
        self.seconds += time.monotonic() - started

    def summary(self) -> str:
        """What was fed and found, in lines."""
        total = sum(self.counts.values())
        lines = [f"{total} inputs in {self.seconds:.0f} s, {total / self.seconds:.0f} a second"]
        lines += [f"  {count:7d} {kind}" for kind, count in self.counts.most_common()]
        lines += [
            f"{kind} {where}: python -m tests.fuzz --again {folder}" for (kind, where), folder in self.findings.items()
        ]
        return "\n".join(lines) if self.findings else "\n".join([*lines, "nothing found"])

    def _fed(self, folder: str) -> str:
        return self.feed(*stored(Path(folder)))

    def _batch(self, watch: Watch, drawn_from: SearchStrategy[Input], seed: int, until: float) -> None:
        """Draw inputs until one is a new finding, and then smaller ones that end the same way."""
        target: tuple[str, str] | None = None

        def one(drawn: Input) -> None:
            nonlocal target, until
            if time.monotonic() > until:
                raise _OutOfTime
            with tempfile.TemporaryDirectory(prefix="timm-conformance-fuzz-") as folder:
                drawn.write(Path(folder))
                outcome = watch.do(folder)
            found = outcome.kind, outcome.where
            if target is None:
                self.counts[outcome.kind] += 1
                if not outcome.is_finding or found in self.findings:
                    return
                target, until = found, time.monotonic() + self.shrinking
            if found == target:
                self._keep(drawn, outcome)
                raise _Found

        settings = hypothesis.settings(
            backend=_BACKEND,
            max_examples=_BATCH,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            print_blob=False,
        )
        # Flaky: a finding that does not show every time, which is kept all the same.
        with contextlib.suppress(_Found, _OutOfTime, hypothesis.errors.Flaky):
            hypothesis.seed(seed)(settings(hypothesis.given(drawn_from)(one)))()

    def _keep(self, drawn: Input, outcome: Outcome) -> None:
        key = outcome.kind, outcome.where
        folder = self.findings.setdefault(key, self.out / f"{len(self.findings):03d}-{outcome.kind}")
        shutil.rmtree(folder, ignore_errors=True)  # what it held was larger
        drawn.write(folder)
        (folder / OUTCOME).write_text(f"{outcome.kind} {outcome.where}\n{outcome.text}\n")
