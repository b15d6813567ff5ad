"""The pytest plugin: judge one target, family by family, and record as it goes.

``pytest --pyargs conformance.suite --vit-target timm==1.0.31`` runs the suite; the runner starts such a process for each
target. Inert without ``--vit-target``: nothing but pytest is imported, nothing is collected.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .results import Record
    from .session import Session

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
    group.addoption(
        "--vit-witness", action="append", default=None, help="replay these witnesses only, and draw nothing"
    )
    group.addoption("--vit-focused", action="store_true", help="draw a whole profile of cases for each family")
    group.addoption("--vit-cases", default=None, help="folder in which the workers of a run share the cases they draw")
    group.addoption("--vit-results", default=None, help="append results to this NDJSON file")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("vit_target") is None:
        return
    try:
        config.stash[_STASH] = _session(config)
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise pytest.UsageError(f"cannot start the target: {type(error).__name__}: {reason}") from error


def _session(config: pytest.Config) -> Session:
    """The session the options ask for, its target made ready."""
    from .session import Session
    from .targets import parse_target

    option = config.getoption
    session = Session(
        parse_target(option("vit_target")),
        families=option("vit_family"),
        invariants=option("vit_invariant"),
        profile=option("vit_profile"),
        seed=option("vit_seed"),
        device=option("vit_device"),
        ledger=option("vit_ledger"),
        witnesses=option("vit_witness"),
        focused=option("vit_focused"),
        cases=Path(option("vit_cases")) if option("vit_cases") else None,
        record=_recorder(config),
    )
    session.start()
    gc.freeze()  # what torch and timm made at import stays: no collection need walk it again
    return session


def _recorder(config: pytest.Config) -> Callable[[Record], None]:
    """Appends each record to the results file at once: a crash loses nothing that was computed."""
    path = config.getoption("vit_results")
    if path is None:
        return lambda record: None
    from .results import encode

    file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the session
    config.add_cleanup(file.close)
    return lambda record: file.write(encode(record))


def pytest_unconfigure(config: pytest.Config) -> None:
    session = config.stash.get(_STASH, None)
    if session is not None:
        session.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    session = metafunc.config.stash.get(_STASH, None)
    if "vit_witness" in metafunc.fixturenames:
        metafunc.parametrize("vit_witness", session.witnesses() if session else [])
    if "vit_cell" in metafunc.fixturenames:
        drawing = session is not None and session.replaying is None
        cells = [(f, i) for f in session.families for i in session.invariants] if drawing else []
        metafunc.parametrize("vit_cell", cells, ids=[f"{f}-{i}" for f, i in cells])


@pytest.fixture
def vit_session(pytestconfig: pytest.Config) -> Session:
    """The worker's session."""
    return pytestconfig.stash[_STASH]
