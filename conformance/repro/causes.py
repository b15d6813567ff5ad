"""Which failures of a target have one cause: the same kind of thing goes wrong with the same tensor, at the same line."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import checkpoints
from ..cases import Case
from ..families import FAMILIES
from ..ledger import WitnessFile
from ..loaders import Loader, Unsupported
from ..trial import Trial
from .where import Trace

# Ways in which invariants that look at values say that a tensor holds the wrong ones.
_VALUES = frozenset(
    {
        "value",
        "changed",
        "constant",
        "adjoint",
        "normal-equations",
        "not-minimum-norm",
        "not-linear",
        "not-symmetric",
        "converted-then-resampled",
        "resampled-then-converted",
    }
)
_SHAPES = frozenset({"shape", "size-mismatch", "not-resampled"})
# The promises whose failures say most plainly what is wrong, first.
_PLAINEST = ("strict-load", "native-identity", "reference-agreement", "prefix-tokens-kept", "no-early-return")


@dataclass(frozen=True)
class Cause:
    """Failures of one cause by name, the plainest first, and the lines of the loader where it ended and resampled."""

    names: list[str]
    ended: str
    resampled: list[str]


def collapse(failures: Mapping[str, WitnessFile], loader: Loader) -> list[Cause]:
    """The causes of failures, in the order they were met."""
    found: dict[tuple, list[str]] = {}
    traces: dict[str, Trace] = {}
    for name, witness in failures.items():
        traces[name] = trace_of(witness.case, loader)
        asked = (
            witness.case.in_chans is not None,
            witness.case.num_classes is not None,
        )  # of the factory, not the loader
        found.setdefault((_class(witness.kind), witness.tensor, traces[name].ended, asked), []).append(name)

    def plainness(name: str) -> tuple[int, int]:
        return _rank(failures[name].invariant), len(failures[name].case.to_json())

    ordered = [sorted(names, key=plainness) for names in found.values()]
    return [Cause(names, traces[names[0]].ended, traces[names[0]].resampled) for names in ordered]


def trace_of(case: Case, loader: Loader) -> Trace:
    """Where the load of a case ends in timm's source; nowhere for other loaders, or a model the release cannot build."""
    import timm

    trace, family = Trace(Path(timm.__file__).resolve().parent), FAMILIES[case.family]
    if loader.target.is_timm:
        trial = Trial(family, case, loader)
        checkpoint = trial.place(checkpoints.wrap(trial.upstream, case.wrapper))
        with contextlib.suppress(Unsupported):
            model = trial.model()  # built outside: what a constructor does is not the loader's
            trace.run(lambda: loader.convert(family, case.arch, checkpoint, model))
    return trace


def _class(kind: str) -> str:
    return "values" if kind in _VALUES else "shape" if kind in _SHAPES else kind


def _rank(invariant: str) -> int:
    return _PLAINEST.index(invariant) if invariant in _PLAINEST else len(_PLAINEST)
