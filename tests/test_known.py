"""A repository's own known failures: what they cover, and when they have to go."""

from __future__ import annotations

import pytest

from timm_conformance.cases.case import Case, Geometry
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.known_failures import KnownFailures
from timm_conformance.results.records import Failure, Verdict

SQUARE = Geometry((2, 2), (1, 1))


def verdict(*fingerprints, name=None, invariant="strict-load"):
    """A verdict with these failures, two cases each; without any, a pass."""
    case = Case("openai_clip", {}, SQUARE, SQUARE)
    failures = [Failure(f, "kind", "tensor", "message", case, 2) for f in fingerprints]
    name = name or ("fail" if failures else "pass")
    cases = {"pass": 3, "fail": 2 * len(failures)} if failures else {"pass": 3}
    return Verdict("t", "openai_clip", invariant, name, cases=cases, failures=failures)


def settle(known, given):
    """The verdict as a list has it."""
    return KnownFailures(known, FAMILIES, INVARIANTS).settle(given)


KERNEL = "strict-load:openai_clip:size-mismatch:patch_embed.proj.weight[patch-grow]"
GRID = "strict-load:openai_clip:size-mismatch:pos_embed[grid-grow]"


@pytest.mark.parametrize(
    ("key", "covers"),
    [
        ("openai_clip:strict-load", True),
        ("openai_*:strict-load", True),
        ("openai_clip:*", True),
        (KERNEL, True),
        ("strict-load:*:size-mismatch:patch_embed.*", True),
        ("strict-load:openai_clip:size-mismatch:patch_embed.proj.weight[*]", True),
        ("strict-load:openai_clip:size-mismatch:patch_embed.proj.weight[p]", False),
        ("strict-load:openai_clip:size-mismatch:pos_embed*", False),
        ("dinov2:strict-load", False),
        ("openai_clip:finite", False),
    ],
)
def test_what_a_key_covers(key, covers):
    """Names, fingerprints as they are shown, and wildcards; the brackets of a fingerprint are no choice of letters."""
    settled = settle({key: "why"}, verdict(KERNEL))
    assert settled.verdict == ("known" if covers else "fail")
    assert settled.known == ({key: 2} if covers else {})
    if covers:
        assert (settled.reason, settled.failures, settled.cases) == ("why", [], {"pass": 3, "known": 2})


def test_what_no_key_covers_still_fails():
    """Only the failure that is known is left out."""
    settled = settle({KERNEL: "why"}, verdict(KERNEL, GRID))
    assert settled.verdict == "fail"
    assert [f.fingerprint for f in settled.failures] == [GRID]
    assert settled.known == {KERNEL: 2}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("openai_clip:strict-load", "fixed"),
        (GRID, "fixed"),
        ("openai_*:strict-load", "pass"),
        ("dinov2:strict-load", "pass"),
    ],
)
def test_what_no_longer_fails_has_to_go(key, name):
    """Where a key names exactly this family and invariant; one with wildcards may hold elsewhere."""
    settled = settle({key: "why"}, verdict())
    assert settled.verdict == name
    assert settled.reason == (f"{key} no longer fails (why)" if name == "fixed" else "")


def test_one_of_two_that_no_longer_fails_has_to_go():
    """Though the other still does."""
    settled = settle({KERNEL: "why", GRID: "because"}, verdict(KERNEL))
    assert (settled.verdict, settled.reason) == ("fixed", f"{GRID} no longer fails (because)")


def test_what_a_library_is_blamed_for_does_not_count_for_the_owners_key():
    """A key whose only failures the suite explains by itself has to go; another's verdict stays known."""
    blamed = Verdict("t", "openai_clip", "strict-load", "known", cases={"known": 2}, known={"entry": 2}, reason="torch")
    assert settle({"openai_clip:strict-load": "old"}, blamed).verdict == "fixed"
    assert settle({"openai_clip:finite": "old"}, blamed) == blamed


@pytest.mark.parametrize("name", ["error", "not-applicable"])
def test_what_was_not_judged_is_left_alone(name):
    """It neither fails nor passes."""
    given = verdict(name=name)
    assert settle({"openai_clip:strict-load": "why"}, given) == given


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("clip:finite", "unknown family 'clip': did you mean 'eva_clip'"),
        ("finite:openai_clip", "unknown family 'finite'"),
        ("strictly:openai_clip:kind:tensor", "unknown invariant 'strictly': did you mean 'strict-load'"),
        ("openai_clip", "write FAMILY:INVARIANT"),
        ("openai_clip:", "write FAMILY:INVARIANT"),
    ],
)
def test_a_key_that_can_match_nothing_is_a_mistake(key, says):
    """One line, with the nearest name."""
    with pytest.raises(UserError, match=says):
        settle({key: "why"}, verdict())
