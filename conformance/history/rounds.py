"""Searches for the claims that the gate's cases do not show, in rounds over the releases.

A case that shows an entry in one release mostly shows it in the others. So each entry and family is searched for in one
release, and what is found is tried on the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..ledger.entries import Ledger
from ..targets.subprocess_call import call
from .claims import Cases, Claim, Evidence, Seen
from .search import Found, Request, Wanted

# How many cases in an entry's regime to judge before a release is taken not to show it.
_BUDGET = 60
Look = Callable[[str, list[Wanted]], list[Found]]


class Rounds:
    """The search for claims that are not in ``seen``.

    ``look`` does the work on one release. What is found is added to ``seen``, and the cases that showed it to ``used``.
    ``tried`` are cases to try first, by entry and family.
    """

    def __init__(self, known_bugs: Ledger, seen: Seen, tried: Cases, look: Look, jobs: int) -> None:
        self.known_bugs = known_bugs
        self.seen = seen
        self.tried = tried
        self.used: Cases = {}
        self._look = look
        self._jobs = jobs

    def complete(self, claims: Sequence[Claim], versions: Sequence[str]) -> None:
        """Look for all claims. ``versions`` are the releases, oldest first.

        Known cases are tried on every release. Then each entry and family is searched for in the newest release that lacks
        it, and at last in the oldest. After each search, what was found is tried on the other releases.
        """
        self._one_round(claims, search=False)
        for order in (versions[::-1], versions):
            first: dict[tuple[str, str], Claim] = {}
            for claim in sorted(self._left(claims), key=lambda claim: order.index(claim.release)):
                first.setdefault((claim.entry, claim.family), claim)
            self._one_round(first.values(), search=True)
            self._one_round(claims, search=False)

    def _left(self, claims: Iterable[Claim]) -> list[Claim]:
        return [claim for claim in claims if claim not in self.seen]

    def _one_round(self, claims: Iterable[Claim], search: bool) -> None:
        """Look once for each claim that is not seen: with the known cases of its entry and family, or by a search as well."""
        wanted: dict[str, list[Wanted]] = {}
        for claim in self._left(claims):
            entry, known = self.known_bugs.entry(claim.entry), self.tried.get((claim.entry, claim.family), [])
            if entry is not None and (known or search):
                witness = self.known_bugs.witnesses[claim.entry].case
                wanted.setdefault(claim.release, []).append(Wanted(entry, claim.family, witness, known, search))
        with ThreadPoolExecutor(self._jobs) as pool:
            for release, found in zip(wanted, pool.map(self._look, wanted, wanted.values())):
                for one in found:
                    self._note(one, release)

    def _note(self, one: Found, release: str) -> None:
        self.seen.setdefault(Claim(one.entry, one.family, release), set()).add(Evidence(one.failure, one.regime))
        for cases in (self.tried, self.used):
            known = cases.setdefault((one.entry, one.family), [])
            if one.case not in known:
                known.append(one.case)


def look_on(version: str, wanted: list[Wanted], timeout: float) -> list[Found]:
    """Look on one release, in a process of its own; prints a line. Raises :class:`UserError`."""
    request = Request(f"timm=={version}", wanted, _BUDGET)
    found = call("timm_conformance.history.search", request, list[Found], request.target, timeout)
    shown = len({(one.entry, one.family) for one in found})
    print(f"timm=={version}: {shown} of {len(wanted)} further claims seen", file=sys.stderr, flush=True)
    return found
