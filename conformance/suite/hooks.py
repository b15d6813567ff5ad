"""The hooks of a pytest run with ``--vit-target``. :mod:`timm_conformance.plugin` registers them."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from ..cases.selection import Selection
from ..engine.session import Session
from ..results.records import Record, encode
from ..targets.target import parse_target
from .outcome import failed, refusing
from .parametrize import cells, group

_STASH = pytest.StashKey[Session]()


def begin(config: pytest.Config) -> None:
    """Make the session that the options ask for, and start it where this process runs tests."""
    in_worker = hasattr(config, "workerinput")  # of pytest-xdist; where it would retry what cannot be configured
    with refusing(pytest.UsageError):
        session = _session(config)
        if not in_worker and config.getoption("dist", "no") == "no":
            session.start()
            gc.freeze()  # what torch and timm made at import stays: no collection need walk it again
    config.stash[_STASH] = session


def _session(config: pytest.Config) -> Session:
    selection = Selection(
        families=tuple(config.getoption("vit_conformance_family")),
        invariants=tuple(config.getoption("vit_conformance_invariant")),
        profile=config.getoption("vit_conformance_profile"),
        seed=config.getoption("vit_conformance_seed"),
        device=config.getoption("vit_conformance_device"),
        focused=config.getoption("vit_conformance_focused"),
        ledger=config.getoption("vit_conformance_ledger"),
    )
    return Session(parse_target(config.getoption("vit_conformance_target")), selection, record=_recorder(config))


def _recorder(config: pytest.Config) -> Callable[[Record], None]:
    """Appends each record to the results file at once: a crash loses nothing that was computed."""
    path = config.getoption("vit_conformance_results")
    if path is None:
        return lambda record: None
    file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the session
    config.add_cleanup(file.close)

    def record(found: Record) -> None:
        file.write(encode(found))

    return record


def pytest_unconfigure(config: pytest.Config) -> None:
    session = config.stash.get(_STASH, None)
    if session is not None and session.started:
        session.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vit_session" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[_STASH]
    if "vit_witness" in metafunc.fixturenames:
        witnesses = [(name, session.stored[name].case.family) for name in session.witnesses()]
        metafunc.parametrize("vit_witness", [pytest.param(n, id=n, marks=group(f)) for n, f in witnesses])
    if "vit_family" in metafunc.fixturenames:
        metafunc.parametrize(("vit_family", "vit_invariant"), cells(session))


@pytest.fixture
def vit_session(pytestconfig: pytest.Config) -> Session:
    """The session of ``--vit-target``."""
    session = pytestconfig.stash[_STASH]
    with refusing(failed):
        session.start()
    return session
