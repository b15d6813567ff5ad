"""Judges one target in this process, family by family. The pytest plugin and ``run_conformance`` share it."""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cases.profiles import profile as profile_of
from ..cases.selection import Selection
from ..checkpoints.formats import check_format, format_of
from ..drawing.catalogue import models_of
from ..drawing.drawing import Drawing
from ..errors import UserError, choose, unknown
from ..families import FAMILIES
from ..invariants import INVARIANTS
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..ledger.known_failures import KnownFailures
from ..ledger.witnesses import read_witness
from ..probes.registry import ask
from ..results import records
from ..targets import torchvision_shim
from ..targets.loader import Convert, Loader
from ..targets.target import MODEL_RELEASE, Target, loader_target, timm_is_installed
from .digests import source_digest, suite_digest
from .explorer import Explorer
from .replaying import replay

# Where a GPU may round the factors of float32 products: of matrices, and in cuDNN's convolutions, where it is the default.
_TF32: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)


class Session:
    """A loader under test, with the families and invariants to judge.

    Unknown names raise :class:`UserError` at once. :meth:`start`, or the first verdict, prepares the target.

    witnesses       replay only these
    cases           folder in which the workers of a run share the cases they draw
    until           time after which no new case is judged (:class:`timm_conformance.drawing.drawing.Drawing`)
    examples        folder of witnesses to replay beside the ledger's
    function        the function that a ``loader:`` target names, if it is imported already
    known_failures  the failures that the loader's owner knows (:class:`timm_conformance.ledger.known_failures.KnownFailures`)
    record          called with each record as it arrives
    """

    def __init__(
        self,
        target: Target,
        selection: Selection = Selection(),
        *,
        witnesses: Sequence[str] | None = None,
        cases: Path | None = None,
        until: float | None = None,
        examples: Path | None = None,
        function: Convert | None = None,
        known_failures: Mapping[str, str] | None = None,
        record: Callable[[records.Record], None] = lambda record: None,
    ) -> None:
        self.target = target
        self.families = choose("family", selection.families, FAMILIES)
        self.invariants = choose("invariant", selection.invariants, INVARIANTS)
        self.profile = profile_of(selection.profile)
        self.device = _device(selection.device)
        self.drawing = Drawing(self.profile, selection.seed, selection.focused, cases, until)
        self.function = function
        self.known = KnownFailures(known_failures or {}, FAMILIES, INVARIANTS)
        self.record = record
        self.ledger_path = selection.ledger or DEFAULT_LEDGER
        self.ledger = load_ledger(self.ledger_path)
        self.stored = dict(self.ledger.witnesses)
        self.replaying = None if witnesses is None else list(witnesses)
        for name in witnesses or ():
            self.stored[name] = self.ledger.witness(name)
        if examples is not None:
            self.stored |= {str(path): read_witness(path) for path in sorted(examples.glob("*.json"))}
        for name, witness in self.stored.items():
            if witness.invariant not in INVARIANTS:
                raise UserError(f"witness {name}: {unknown('invariant', witness.invariant, INVARIANTS)}")
        self._started = time.monotonic()
        self._explorer: Explorer | None = None
        self._verdicts: dict[str, dict[str, records.Verdict]] = {}

    @classmethod
    def on(
        cls,
        function: Convert,
        timm: str | None,
        selection: Selection = Selection(),
        *,
        known_failures: Mapping[str, str] | None = None,
        record: Callable[[records.Record], None] = lambda record: None,
    ) -> Session:
        """A session on a function, with destination models from the named timm: a version, or ``installed``.

        Without a name, the models are from the installed timm if there is one: the loader may import it, and one process
        can have only one timm. The session replays no witnesses. Of the ledger it uses the faults of dependencies, and tells
        by it which failures timm has too.
        """
        if not callable(function):
            raise UserError(f"{function!r} is no loader; write a function (checkpoint, model) -> state_dict")
        models = timm.removeprefix("timm==") if timm else "installed" if timm_is_installed() else MODEL_RELEASE
        name = getattr(function, "__qualname__", type(function).__qualname__)
        target = loader_target(f"{function.__module__}:{name}", models)
        return cls(target, selection, witnesses=(), function=function, known_failures=known_failures, record=record)

    @property
    def importable(self) -> bool:
        """Whether the target can be named on a command line. A function defined inside another one cannot."""
        module, _, name = self.target.value.partition(":")
        return self.function is None or getattr(sys.modules.get(module), name, None) is self.function

    def start(self) -> Explorer:
        """Prepare the target and record the header, once. Raises :class:`UserError` for a target that cannot start."""
        if self._explorer is None:
            self._explorer = self._prepare()
        return self._explorer

    @property
    def started(self) -> bool:
        """Whether the target was prepared."""
        return self._explorer is not None

    def _prepare(self) -> Explorer:
        for family in map(FAMILIES.__getitem__, self.families):
            check_format(format_of(family))
            models_of(family)
        with judging_settings(self.device):
            loader = Loader(self.target, self.device, self.function)
            shims = [torchvision_shim.NAME] if torchvision_shim.install() else []
        self.record(
            records.Header(
                target=self.target.spec,
                timm=loader.timm_version,
                python=platform.python_version(),
                torch=str(torch.__version__),
                platform=platform.platform(terse=True),
                device=loader.device,
                shims=shims,
                profile=self.profile.name,
                seed=self.drawing.seed,
                families=self.families,
                invariants={i: list(INVARIANTS[i].regimes_on(self.target.kind)) for i in self.invariants},
                focused=self.drawing.focused,
                suite=suite_digest(self.ledger_path),
                source=source_digest(self.target.spec) or "",
                probes=list(ask(loader.device)),
            )
        )
        invariants = [INVARIANTS[i] for i in self.invariants]
        return Explorer(loader, self.ledger, invariants, self.drawing, self.record)

    def explore(self, family: str) -> dict[str, records.Verdict]:
        """The verdicts of a family by invariant. The family is explored only once."""
        if family not in self._verdicts:
            explorer = self.start()
            with judging_settings(self.device):
                verdicts = [self.known.settle(v) for v in explorer.explore(FAMILIES[family])]
            for verdict in verdicts:
                self.record(verdict)
            self._verdicts[family] = {v.invariant: v for v in verdicts}
        return self._verdicts[family]

    def replay(self, name: str) -> records.Witness:
        """Replay one stored witness."""
        explorer, stored = self.start(), self.stored[name]
        with judging_settings(self.device):
            witness = replay(explorer, name, stored, FAMILIES[stored.case.family])
        self.record(witness)
        return witness

    def witnesses(self, families: Iterable[str] | None = None) -> list[str]:
        """The witnesses to replay: the given ones, or all of the invariants and of ``families`` (default: the session's)."""
        if self.replaying is not None:
            return self.replaying
        families = self.families if families is None else list(families)
        return [n for n, w in self.stored.items() if w.case.family in families and w.invariant in self.invariants]

    def close(self) -> None:
        """Record the footer: the results are complete."""
        self.record(records.Footer(round(time.monotonic() - self._started, 3)))


@contextlib.contextmanager
def judging_settings(device: str = "cpu") -> Iterator[None]:
    """Judge with one torch thread, without TF32 and without timm's warnings; restores the process's settings afterwards.

    The bounds are those of float32; TF32 has only ten bits of its mantissa.
    """
    threads, logger = torch.get_num_threads(), logging.getLogger("timm")
    level, rounded = logger.level, [backend.allow_tf32 for backend in _TF32]
    generators = [torch.cuda.current_device()] if device == "cuda" else []
    torch.set_num_threads(1)
    try:
        for backend in _TF32:
            backend.allow_tf32 = False
        with warnings.catch_warnings(), torch.random.fork_rng(devices=generators):
            warnings.simplefilter("ignore")
            logger.setLevel(logging.CRITICAL)
            yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)
        for backend, allowed in zip(_TF32, rounded):
            backend.allow_tf32 = allowed


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: no CUDA device is visible to torch; use --device cpu, or auto")
    return name
