"""``python -m timm_conformance.history``: judge the releases, and compare the ledger with what they show."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import click

from ..cases.fixtures import CHECKOUT
from ..errors import EXIT_EXPECTED, EXIT_FAILURE, EXIT_USAGE, UserError, unknown
from ..families import FAMILIES
from ..ledger.entries import DEFAULT_LEDGER, Ledger, load_ledger
from ..targets import releases
from ..targets.subprocess_call import call
from . import claims_page, fixes
from .claims import CLAIMS, Cases, Observed, Seen, claims, file_text, read_observed, seen_in, stored, unobserved
from .observations import Observations, Request
from .rounds import Rounds, look_on

_EVERY = ">=0.9"


@click.command()
@click.option("--releases", "specifier", default=_EVERY, show_default=True, metavar="SPEC", help="Releases to judge.")
@click.option(
    "--entry",
    "names",
    multiple=True,
    metavar="ID",
    help="Observe only the claims of this ledger entry, on the releases of the last full run. Repeatable.",
)
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores")
@click.option(
    "--timeout", type=click.FloatRange(1), default=1800, show_default=True, help="Seconds a release may take."
)
@click.option(
    "--write", is_flag=True, help="Write docs/claims.md and fixtures/claims.json, and without --entry docs/history.md."
)
def main(specifier: str, names: tuple[str, ...], jobs: int, timeout: float, write: bool) -> None:
    """Compare the ledger with the fixes that timm's releases show, and observe each family and release that it claims.

    Exit code 1: a fix has no ledger entry, the gate's cases show no fix where the ledger has one, or no case shows a claim.
    """
    try:
        if write and (CHECKOUT is None or (specifier != _EVERY and not names)):
            raise UserError("--write needs a checkout, and all releases: leave out --releases")
        known_bugs = load_ledger(DEFAULT_LEDGER)
        if names:
            observed, gaps = _observe_entries(known_bugs, names, jobs, timeout), []
        else:
            versions, _ = releases.matching(specifier)
            found = observe_releases(versions, jobs, timeout)
            observed = _observe_claims(known_bugs, versions, seen_in(known_bugs, found), jobs, timeout)
            mended = fixes.fixes(found, known_bugs)
            gaps = [*fixes.unknown(mended), *fixes.unseen(mended, known_bugs, versions)]
            _page(fixes.page(mended, found, known_bugs, gaps), "history.md", write)
    except UserError as error:
        print(f"timm_conformance.history: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    _page(claims_page.page(known_bugs, observed), "claims.md", write)
    if write:
        CLAIMS.write_text(file_text(observed), encoding="utf-8")
    gaps += unobserved(known_bugs, observed)
    print("\n".join(gaps), file=sys.stderr)
    sys.exit(EXIT_FAILURE if gaps else EXIT_EXPECTED)


def _page(text: str, name: str, write: bool) -> None:
    """Print a page, or write it to docs/."""
    if write and CHECKOUT is not None:
        (CHECKOUT / "docs" / name).write_text(text, encoding="utf-8")
    else:
        print(text)


def observe_releases(versions: Sequence[str], jobs: int, timeout: float) -> dict[str, Observations]:
    """Judge the gate's cases on each release; prints a line for each. Raises :class:`UserError`."""
    with TemporaryDirectory(prefix="timm-conformance-") as folder, ThreadPoolExecutor(jobs) as pool:

        def one(version: str) -> Observations:
            request = Request(f"timm=={version}", list(FAMILIES), "gate", 0, folder)
            answer = call("timm_conformance.history.observations", request, Observations, request.target, timeout)
            broken = sum(1 for observed in answer.values() for case in observed if case.failed)
            print(
                f"timm=={version}: {broken} of {sum(map(len, answer.values()))} cases violate an invariant",
                file=sys.stderr,
                flush=True,
            )
            return answer

        return dict(zip(versions, pool.map(one, versions), strict=True))


def _observe_claims(known_bugs: Ledger, versions: Sequence[str], seen: Seen, jobs: int, timeout: float) -> Observed:
    """Look for the claims that are not seen yet. The cases that the last run kept and the witnesses are tried first."""
    tried: Cases = {}
    if CLAIMS.is_file():
        kept = read_observed().cases
        tried = {(name, family): list(cases) for name, some in kept.items() for family, cases in some.items()}
    for name, witness in known_bugs.witnesses.items():
        tried.setdefault((name, witness.case.family), []).append(witness.case)
    rounds = Rounds(known_bugs, seen, tried, partial(look_on, timeout=timeout), jobs)
    rounds.complete(list(claims(known_bugs, versions)), versions)
    return stored(known_bugs, seen, versions, rounds.used)


def _observe_entries(known_bugs: Ledger, names: Sequence[str], jobs: int, timeout: float) -> Observed:
    """The last run's observations, with those of the entries named made again."""
    last, ids = read_observed(), [entry.id for entry in known_bugs.entries]
    for name in names:
        if name not in ids:
            raise unknown("ledger entry", name, ids)
    some = Ledger([entry for entry in known_bugs.entries if entry.id in names], known_bugs.witnesses)
    new = _observe_claims(some, last.releases, {}, jobs, timeout)

    def renewed(field: str) -> dict[str, Any]:
        old, made = getattr(last, field), getattr(new, field)
        both = {name: (made if name in names else old).get(name) for name in ids}
        return {name: value for name, value in both.items() if value}

    return Observed(last.releases, renewed("shown"), renewed("unseen"), renewed("cases"))
