"""The pytest plugin: one worker judges one target, family by family, and records as it goes.

``python -m pytest -p conformance.plugin conformance/suite --vit-target timm==1.0.31`` is what the runner starts. Inert
unless ``--vit-target`` is given.
"""

from __future__ import annotations

import gc
import platform
import time
from pathlib import Path

import pytest

from . import results
from .errors import UserError, choose

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
    group.addoption("--vit-results", default=None, help="append results to this NDJSON file")


class Session:
    """Everything one worker shares: the loader made ready, the ledger, and the file results go to."""

    def __init__(self, config: pytest.Config) -> None:
        import torch

        from . import ledger as ledgers
        from . import torchvision_shim
        from .engine import Explorer
        from .families import FAMILIES
        from .invariants import INVARIANTS
        from .loaders import Loader
        from .profiles import profile
        from .targets import parse_target

        option = config.getoption
        torch.set_num_threads(1)
        self.started = time.monotonic()
        path = option("vit_results")
        self.file = open(path, "ab", buffering=0) if path else None  # noqa: SIM115 - open as long as the session
        self.families = choose("family", option("vit_family"), FAMILIES)
        self.invariants = choose("invariant", option("vit_invariant"), INVARIANTS)
        self.ledger = ledgers.load(option("vit_ledger") or ledgers.DEFAULT_PATH)
        self.stored = dict(self.ledger.witnesses)
        self.replaying = option("vit_witness")
        for name in self.replaying or ():
            if name not in self.stored:
                self.stored[name] = ledgers.read_witness(Path(name))
        target, chosen = parse_target(option("vit_target")), profile(option("vit_profile"))
        loader = Loader(target, _device(option("vit_device")))
        gc.freeze()  # what torch and timm made at import stays: no collection need walk it again
        self.explorer = Explorer(
            loader,
            self.ledger,
            [INVARIANTS[i] for i in self.invariants],
            chosen,
            option("vit_seed"),
            self._alive,
            focused=option("vit_focused"),
        )
        self._verdicts: dict[str, dict[str, results.Verdict]] = {}
        self.record(
            results.Header(
                target=target.spec,
                timm=loader.timm_version,
                python=platform.python_version(),
                torch=str(torch.__version__),
                platform=platform.platform(terse=True),
                device=loader.device,
                shims=[torchvision_shim.NAME] if torchvision_shim.install() else [],
                profile=chosen.name,
                seed=option("vit_seed"),
                families=self.families,
                invariants={i: list(INVARIANTS[i].regimes) for i in self.invariants},
            )
        )

    def record(self, record: results.Record) -> None:
        """Append one line, at once: a crash loses nothing that was computed."""
        if self.file is not None:
            self.file.write(results.encode(record))

    def _alive(self, family: str, cases: int) -> None:
        self.record(results.Progress(self.explorer.target, family, cases))

    def verdict(self, family: str, invariant: str) -> results.Verdict:
        """The verdict of one cell; the family is explored when its first cell is asked for."""
        from .families import FAMILIES

        if family not in self._verdicts:
            verdicts = self.explorer.explore(FAMILIES[family])
            for verdict in verdicts:
                self.record(verdict)
            self._verdicts[family] = {v.invariant: v for v in verdicts}
        return self._verdicts[family][invariant]

    def replay(self, name: str) -> results.Witness:
        """Replay one stored witness."""
        from .families import FAMILIES

        witness = self.explorer.replay(name, self.stored[name], FAMILIES[self.stored[name].case.family])
        self.record(witness)
        return witness

    def witnesses(self) -> list[str]:
        """The witnesses to replay: those asked for, or every one of the chosen families and invariants."""
        if self.replaying is not None:
            return self.replaying
        return [n for n, w in self.stored.items() if w.case.family in self.families and w.invariant in self.invariants]

    def close(self) -> None:
        """Write the footer: the file is complete."""
        self.record(results.Footer(round(time.monotonic() - self.started, 3)))
        if self.file is not None:
            self.file.close()


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: no CUDA device is visible to torch; use --device cpu, or auto")
    if name == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return name


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("vit_target") is None:
        return
    try:
        config.stash[_STASH] = Session(config)
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise pytest.UsageError(f"cannot start the target: {type(error).__name__}: {reason}") from error


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
