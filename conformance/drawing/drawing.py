"""Draws the cases of a run, stratum by stratum. The same seed gives the same cases for every loader.

Drawing takes up to a fifth of the time of judging, and the workers of a run draw the same cases. So with a ``folder``, the first
worker that draws a family stores its cases there for the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import hypothesis
import msgspec
from hypothesis import HealthCheck, Phase, Verbosity

from ..cases.case import Case
from ..cases.profiles import Profile
from ..families import Family
from .hypothesis_internals import seed_alone
from .pinned import pinned_cases
from .strategies import Stratum, cases, strata_of

# Further cases of each stratum in which to look for a regime that was not met. Drawing one takes a twentieth of judging it.
_EXTRA = 12
# The stratum of the pinned cases. Nothing is drawn in it.
PINNED = Stratum("pinned", "any", "any")


class Drawing:
    """The cases of a profile and seed.

    With ``focused``, every family draws a whole profile; otherwise a family that shares its code path with others draws fewer
    cases. ``until`` is the ``time.time()`` after which no further stratum is begun. ``folder`` keeps the drawn cases.
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
        """Whether the time ``until`` is over."""
        return self.until is not None and time.time() >= self.until

    def cases(self, family: Family) -> dict[Stratum, list[Case]]:
        """A family's pinned cases, then its drawn ones, by stratum."""
        strata = {s.name: s for s in (PINNED, *strata_of(family))}
        path = self.folder / f"{family.name}.json" if self.folder else None
        if path is not None and path.is_file():
            stored = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Case]])
            return {strata[name]: drawn for name, drawn in stored.items()}
        found = {PINNED: pinned_cases(family)}
        found |= {s: self._collect(family, s) for s in strata_of(family)}
        if path is not None:
            scratch = path.with_suffix(f".{os.getpid()}")
            scratch.write_bytes(msgspec.json.encode({s.name: drawn for s, drawn in found.items()}))
            scratch.replace(path)
        return found

    def more(self, family: Family, stratum: Stratum, search: int = 0) -> list[Case]:
        """Further cases of a stratum, in which to look for a regime that was not met; others in each ``search``."""
        return self._collect(family, stratum, f"/extra{search or ''}")

    def shrink(self, family: Family, stratum: Stratum, visit: Callable[[Case], None]) -> None:
        """Draw the cases of a stratum again, and let Hypothesis shrink the first case for which ``visit`` raises.

        The exception of the smallest such case passes through. Pinned cases are not shrunk.
        """
        if stratum == PINNED:
            return
        self._run(family, stratum, visit, phases=(Phase.generate, Phase.shrink))

    def _collect(self, family: Family, stratum: Stratum, extra: str = "") -> list[Case]:
        found: list[Case] = []
        self._run(family, stratum, found.append, extra=extra)
        # Hypothesis's first case is always the simplest one, which is nearly the same in every stratum.
        return found[1:]

    def _run(
        self,
        family: Family,
        stratum: Stratum,
        visit: Callable[[Case], None],
        phases: tuple[Phase, ...] = (Phase.generate,),
        extra: str = "",
    ) -> None:
        # The seed alone would repeat the same draws in every stratum and family.
        seed = crc32(f"{self.seed}/{family.name}/{stratum.name}{extra}".encode())
        count = _EXTRA if extra else self._count(family, stratum, seed)
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

        with seed_alone():
            visit_each()

    def _count(self, family: Family, stratum: Stratum, seed: int) -> int:
        """Number of cases to draw.

        A fraction of a case becomes one case in that fraction of the strata. The seed decides in which.
        """
        if self.focused:
            return max(1, round(self.profile.cases * stratum.weight))
        share = self.profile.cases * stratum.weight * family.weight
        return max(int(share + (seed % 1000) / 1000), stratum.many_blocks)
