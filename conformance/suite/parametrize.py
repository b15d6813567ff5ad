"""Tests of a loader, one for each family and invariant."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from ..cases.selection import Selection, names
from ..engine.session import Session
from ..targets.loader import Convert
from .outcome import failed, refusing, report


def group(family: str) -> tuple[pytest.MarkDecorator, ...]:
    """The mark that keeps what is judged on one family's cases in one worker of ``pytest -n N --dist loadgroup``.

    None where no plugin registered it, as under ``PYTEST_DISABLE_PLUGIN_AUTOLOAD``: then there are no workers, and
    ``--strict-markers`` refuses it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)
        try:
            return (pytest.mark.xdist_group(family),)
        except pytest.fail.Exception:
            return ()


def cells(session: Session) -> list[Any]:
    """One parameter set for each family and invariant; the ids are stable."""
    return [pytest.param(f, i, id=f"{f}-{i}", marks=group(f)) for f in session.families for i in session.invariants]


def vit_conformance(
    loader: Convert,
    *,
    families: Iterable[str] | None = None,
    invariants: Iterable[str] | None = None,
    profile: str = "gate",
    seed: int = 0,
    known_failures: Mapping[str, str] | None = None,
    timm: str | None = None,
) -> Callable[..., None]:
    """A pytest test of a loader, one item for each family and invariant; assign it to a name that starts with ``test``.

    ``loader`` is ``function(checkpoint, model) -> state_dict``; the arguments are those of
    :func:`timm_conformance.run_conformance`. A family is explored when the first of its items runs, once in each process.
    A wrong argument is an error of the collection, in one line.
    """
    with refusing(pytest.Collector.CollectError):
        selection = Selection(
            families=names(families),
            invariants=names(invariants),
            profile=profile,
            seed=seed,
            focused=bool(families),
        )
        session = Session.on(loader, timm, selection, known_failures=known_failures)

    @pytest.mark.parametrize(("vit_family", "vit_invariant"), cells(session))
    def test_conformance(request: pytest.FixtureRequest, vit_family: str, vit_invariant: str) -> None:
        with refusing(failed):
            session.start()
        report(request, session, session.explore(vit_family)[vit_invariant])

    return test_conformance
