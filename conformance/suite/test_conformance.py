"""The collected property tests, thin: witnesses first, then every family x invariant."""

from __future__ import annotations

import pytest


def test_witness(vit_session, vit_witness):
    """A stored witness fails inside its ledger range and passes outside."""
    replay = vit_session.replay(vit_witness)
    if not replay.expected:
        pytest.fail(f"{vit_witness} {replay.replay}: {replay.message}", pytrace=False)
    if replay.replay == "not-applicable":
        pytest.skip(replay.message)


def test_invariant(vit_session, vit_cell):
    """An invariant holds for every drawn case of a family, but for what the ledger knows."""
    verdict = vit_session.verdict(*vit_cell)
    if verdict.verdict in ("fail", "error"):
        lines = [f"{f.fingerprint}\n  {f.message}\n  {f.case.describe()}" for f in verdict.failures]
        pytest.fail("\n".join(lines) or verdict.reason, pytrace=False)
    if verdict.verdict == "known":
        pytest.xfail(", ".join(verdict.known))
    if verdict.verdict == "not-applicable":
        pytest.skip(verdict.reason)
