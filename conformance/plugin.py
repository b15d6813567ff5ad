"""The pytest plugin, and the tests of another repository's loader.

``pytest --pyargs timm_conformance.suite --vit-target timm==1.0.31`` runs the suite on a target;
:func:`vit_conformance` makes a test of a function instead. Without them it imports and collects nothing.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

from .errors import UserError, cannot_start

if TYPE_CHECKING:
    from .engine.session import Session
    from .results.records import Failure, Record, Verdict
    from .targets.loader import Convert

_SHOWN = 3  # failures of one invariant told in full; the others are named
_STASH = pytest.StashKey["Session"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vit-conformance", "Vision Transformer checkpoint conformance")
    group.addoption("--vit-target", help="loader under test, e.g. timm==1.0.31, path:DIR, loader:module:function")
    group.addoption("--vit-family", action="append", default=[], help="judge this family only (repeatable)")
    group.addoption("--vit-invariant", action="append", default=[], help="judge this invariant only (repeatable)")
    group.addoption("--vit-profile", default="gate", help="smoke, gate or deep (default: gate)")
    group.addoption("--vit-seed", type=int, default=0, help="seed of the drawn cases (default: 0)")
    group.addoption("--vit-device", default="cpu", help="cpu or cuda (default: cpu)")
    group.addoption("--vit-ledger", default=None, help="ledger of known bugs, or none (default: the project's)")
    group.addoption("--vit-focused", action="store_true", help="draw a whole profile of cases for each family")
    group.addoption("--vit-results", default=None, help="append results to this NDJSON file")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("xdist"):  # the marks are there with and without it
        config.addinivalue_line("markers", "xdist_group(name): tests that one pytest-xdist worker runs")
    if config.getoption("vit_target") is None:
        return
    in_worker = hasattr(config, "workerinput")  # of pytest-xdist; where it would retry what cannot be configured
    with _refusing(pytest.UsageError):
        session = _session(config)
        if not in_worker and config.getoption("dist", "no") == "no":
            session.start()
            gc.freeze()  # what torch and timm made at import stays: no collection need walk it again
    config.stash[_STASH] = session


@contextlib.contextmanager
def _refusing(how: Callable[[str], BaseException]) -> Iterator[None]:
    """Tell a mistake, or why a target cannot start, in one line, as pytest's own exception for the occasion."""
    try:
        yield
    except UserError as error:
        raise how(str(error)) from None
    except Exception as error:
        raise how(cannot_start(error)) from error


def _session(config: pytest.Config) -> Session:
    """The session the options ask for."""
    from .cases.selection import Selection
    from .engine.session import Session
    from .targets.target import parse_target

    option = config.getoption
    selection = Selection(
        families=tuple(option("vit_family")),
        invariants=tuple(option("vit_invariant")),
        profile=option("vit_profile"),
        seed=option("vit_seed"),
        device=option("vit_device"),
        focused=option("vit_focused"),
        ledger=option("vit_ledger"),
    )
    return Session(parse_target(option("vit_target")), selection, record=_recorder(config))


def _recorder(config: pytest.Config) -> Callable[[Record], None]:
    """Appends each record to the results file at once: a crash loses nothing that was computed."""
    path = config.getoption("vit_results")
    if path is None:
        return lambda record: None
    from .results.records import encode

    file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the session
    config.add_cleanup(file.close)
    return lambda record: file.write(encode(record))


def pytest_unconfigure(config: pytest.Config) -> None:
    session = config.stash.get(_STASH, None)
    if session is not None and session.started:
        session.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vit_session" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash.get(_STASH, None)
    if session is None:
        raise pytest.Collector.CollectError("the suite needs a target: add for example --vit-target timm==1.0.31")
    if "vit_witness" in metafunc.fixturenames:
        witnesses = [(name, session.stored[name].case.family) for name in session.witnesses()]
        metafunc.parametrize("vit_witness", [pytest.param(n, id=n, marks=_group(f)) for n, f in witnesses])
    if "vit_family" in metafunc.fixturenames:
        metafunc.parametrize(("vit_family", "vit_invariant"), _cells(session))


def _group(family: str) -> pytest.MarkDecorator:
    """Keeps what is judged on one family's cases in one worker of ``pytest -n N --dist loadgroup``."""
    return pytest.mark.xdist_group(family)


def _cells(session: Session) -> list:
    """One parameter set for each family and invariant; the ids are stable."""
    return [pytest.param(f, i, id=f"{f}-{i}", marks=_group(f)) for f in session.families for i in session.invariants]


@pytest.fixture
def vit_session(pytestconfig: pytest.Config) -> Session:
    """The session of ``--vit-target``."""
    session = pytestconfig.stash[_STASH]
    with _refusing(_failed):
        session.start()
    return session


def _failed(message: str) -> BaseException:
    return pytest.fail.Exception(message, pytrace=False)


def report(request: pytest.FixtureRequest, session: Session, verdict: Verdict) -> None:
    """Make a verdict the outcome of the running test: known failures are expected ones, not applicable is skipped."""
    if verdict.verdict == "fail":
        models = f"models of timm {session.start().loader.timm_version}"
        lines = []
        for failure in verdict.failures[:_SHOWN]:
            lines += [failure.fingerprint, f"  {failure.message}", f"  {failure.case.describe()}; {models}"]
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
    from .ledger.witnesses import write_witness

    path = write_witness(cache.mkdir("vit-conformance"), invariant, failure)
    return f"timm-conformance replay {os.path.relpath(path)} {session.target.spec}"


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
    from .cases.selection import Selection, names
    from .engine.session import Session

    with _refusing(pytest.Collector.CollectError):
        selection = Selection(
            families=names(families),
            invariants=names(invariants),
            profile=profile,
            seed=seed,
            focused=bool(families),
        )
        session = Session.on(loader, timm, selection, known_failures=known_failures)

    @pytest.mark.parametrize(("vit_family", "vit_invariant"), _cells(session))
    def test_conformance(request: pytest.FixtureRequest, vit_family: str, vit_invariant: str) -> None:
        with _refusing(_failed):
            session.start()
        report(request, session, session.explore(vit_family)[vit_invariant])

    return test_conformance
