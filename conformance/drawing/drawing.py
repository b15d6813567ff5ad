"""Which cases a run draws: stratum by stratum, the same for the same seed, whichever loader they are for.

Drawing costs as much as a fifth of judging, and the workers of a run draw the same cases: with a folder, the first to come
to a family leaves its cases there for the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch
from zlib import crc32

import hypothesis
import msgspec
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

from ..cases.case import Case
from ..cases.profiles import Profile
from ..families import Family
from .pinned import examples_of
from .strategies import Stratum, cases, strata_of

# Cases to look through in each stratum for a regime not met yet; drawing costs a twentieth of judging.
_EXTRA = 12
# Where examples stand among the cases: nothing is drawn there.
PINNED = Stratum("pinned", "any", "any")


class _SeedAlone(HypothesisProvider):
    """Hypothesis's own way to draw, but for the constants it picks from the source of whatever modules a process has imported.

    They would give each worker, shard and user other cases for the same seed.
    """

    def _maybe_draw_constant(self, *_: object, **__: object) -> None:
        return None


class Drawing:
    """The cases of a profile and seed.

    ``focused`` draws a whole profile for every family; otherwise one that shares its code path with others draws fewer.
    ``until`` is the time, as ``time.time()`` tells it, after which no further stratum is begun.
    """

    def __init__(
        self, profile: Profile, seed: int, focused: bool = True, folder: Path | None = None, until: float | None = None
    ) -> None:
        self.profile = profile
        self.seed = seed
        self.focused = focused
        self.folder = folder
        self.until = until

    @property
    def over(self) -> bool:
        """Whether the time given to these cases is over."""
        return self.until is not None and time.time() >= self.until

    def cases(self, family: Family) -> dict[Stratum, list[Case]]:
        """A family's examples, then its cases by stratum."""
        strata = {s.name: s for s in (PINNED, *strata_of(family))}
        path = self.folder / f"{family.name}.json" if self.folder else None
        if path is not None and path.is_file():
            stored = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Case]])
            return {strata[name]: drawn for name, drawn in stored.items()}
        found = {PINNED: [example.case for example in examples_of(family)]}
        found |= {s: self._collect(family, s) for s in strata_of(family)}
        if path is not None:
            scratch = path.with_suffix(f".{os.getpid()}")
            scratch.write_bytes(msgspec.json.encode({s.name: drawn for s, drawn in found.items()}))
            scratch.replace(path)
        return found

    def more(self, family: Family, stratum: Stratum) -> list[Case]:
        """Other cases of a stratum, to look through for a regime not met yet."""
        return self._collect(family, stratum, extra=_EXTRA)

    def shrink(self, family: Family, stratum: Stratum, visit: Callable[[Case], None]) -> None:
        """Draw the cases of a stratum again, and let Hypothesis shrink the first that ``visit`` raises for.

        What it raised for the smallest passes through. An example is small as it is.
        """
        if stratum == PINNED:
            return
        self._run(family, stratum, visit, phases=(Phase.generate, Phase.shrink))

    def _collect(self, family: Family, stratum: Stratum, extra: int = 0) -> list[Case]:
        found: list[Case] = []
        self._run(family, stratum, found.append, extra=extra)
        # Hypothesis's first case is always the simplest one it can make, in every stratum nearly the same.
        return found[1:]

    def _run(
        self,
        family: Family,
        stratum: Stratum,
        visit: Callable[[Case], None],
        phases: tuple[Phase, ...] = (Phase.generate,),
        extra: int = 0,
    ) -> None:
        # Not the bare seed: the same draws would repeat in every stratum and family.
        seed = crc32(f"{self.seed}/{family.name}/{stratum.name}{'/extra' if extra else ''}".encode())
        count = extra or self._count(family, stratum, seed)
        if not count:
            return

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count + 1,
            database=None,
            deadline=None,
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
        )
        @hypothesis.given(cases(family, stratum))
        def visit_each(case: Case) -> None:
            visit(case)

        with patch.dict(AVAILABLE_PROVIDERS, hypothesis=f"{__name__}.{_SeedAlone.__name__}"):
            visit_each()

    def _count(self, family: Family, stratum: Stratum, seed: int) -> int:
        """How many cases to draw.

        Fractions of a case are drawn in as many strata as they add up to, other ones for another seed.
        """
        if self.focused:
            return max(1, round(self.profile.cases * stratum.weight))
        share = self.profile.cases * stratum.weight * family.weight
        return int(share + (seed % 1000) / 1000)
