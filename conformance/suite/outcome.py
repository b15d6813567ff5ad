"""What pytest shows of a verdict, and of a mistake."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from ..engine.session import Session
from ..errors import UserError, cannot_start
from ..ledger.witnesses import write_witness
from ..results.explained import told_of
from ..results.records import Failure, Verdict

_SHOWN = 3  # failures of one invariant told in full; the others are named


@contextlib.contextmanager
def refusing(how: Callable[[str], BaseException]) -> Iterator[None]:
    """Tell a mistake, or why a target cannot start, in one line, as pytest's own exception for the occasion."""
    try:
        yield
    except UserError as error:
        raise how(str(error)) from None
    except Exception as error:
        raise how(cannot_start(error)) from error


def failed(message: str) -> BaseException:
    """A failure of the running test, without a traceback."""
    return pytest.fail.Exception(message, pytrace=False)


def report(request: pytest.FixtureRequest, session: Session, verdict: Verdict) -> None:
    """Make a verdict the outcome of the running test: known failures are expected ones, not applicable is skipped."""
    if verdict.verdict == "fail":
        models = f"models of timm {session.start().loader.timm_version}"
        lines = []
        for failure in verdict.failures[:_SHOWN]:
            lines += [failure.fingerprint]
            lines += [f"  {label:<10} {text}" for label, text in told_of(verdict.invariant, failure)]
            lines += [f"  {'case':<10} {failure.case!r}; {models}"]
            lines += [f"  see it again: {_again(request, session, verdict.invariant, failure)}"]
        more = [failure.fingerprint for failure in verdict.failures[_SHOWN:]]
        pytest.fail("\n".join([*lines, *more]), pytrace=False)
    if verdict.verdict == "error":
        pytest.fail(f"not the loader's fault, but the suite's or the environment's: {verdict.reason}", pytrace=False)
    if verdict.verdict == "fixed":
        gone = verdict.reason or "the ledger says that this fails, and it no longer does: narrow the entry's releases"
        pytest.fail(f"[XPASS(strict)] {gone}", pytrace=False)
    if verdict.verdict == "known":
        pytest.xfail(verdict.reason or ", ".join(verdict.known))
    if verdict.verdict == "not-applicable":
        pytest.skip(verdict.reason)


def _again(request: pytest.FixtureRequest, session: Session, invariant: str, failure: Failure) -> str:
    """The command that replays a failure's smallest case, or where that cannot be named, judges the family again."""
    cache = getattr(request.config, "cache", None)
    if cache is None or not session.importable or session.target.value.startswith(f"{request.module.__name__}:"):
        test = request.node.nodeid.rpartition("]")[0] + "]"  # without what pytest-xdist appends
        return f"pytest '{test}'"
    path = write_witness(cache.mkdir("vit-conformance"), invariant, failure)
    return f"timm-conformance replay {os.path.relpath(path)} {session.target.spec}"
