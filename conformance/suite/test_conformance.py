"""The collected tests: each stored witness, then each invariant on each family."""

from __future__ import annotations

import pytest

from ..engine.session import Session
from .outcome import report


def test_witness(vit_session: Session, vit_witness: str) -> None:
    """A stored witness fails inside its ledger range and passes outside."""
    replay = vit_session.replay(vit_witness)
    if not replay.expected:
        pytest.fail(f"{vit_witness} {replay.replay}: {replay.message}", pytrace=False)
    if replay.replay == "not-applicable":
        pytest.skip(replay.message)


def test_invariant(request: pytest.FixtureRequest, vit_session: Session, vit_family: str, vit_invariant: str) -> None:
    """An invariant holds for every drawn case of a family, but for what the ledger knows."""
    report(request, vit_session, vit_session.explore(vit_family)[vit_invariant])


# Tests by any python_functions of the repository around.
vars(test_witness)["__test__"] = vars(test_invariant)["__test__"] = True
