"""The collected property tests, thin: witnesses first, then every family x invariant."""

from __future__ import annotations

import pytest

from ..plugin import report


def test_witness(vit_session, vit_witness):
    """A stored witness fails inside its ledger range and passes outside."""
    replay = vit_session.replay(vit_witness)
    if not replay.expected:
        pytest.fail(f"{vit_witness} {replay.replay}: {replay.message}", pytrace=False)
    if replay.replay == "not-applicable":
        pytest.skip(replay.message)


def test_invariant(request, vit_session, vit_family, vit_invariant):
    """An invariant holds for every drawn case of a family, but for what the ledger knows."""
    report(request, vit_session, vit_session.explore(vit_family)[vit_invariant])
