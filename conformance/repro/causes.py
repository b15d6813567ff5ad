"""Which failures of a target are in the same place: the same kind of thing is wrong, and the load ends at the same line of timm.

Most often that is one cause. Wrong values of two tensors are two; two tensors that are missing, or not resampled, are one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints import wrappers
from ..families import FAMILIES
from ..ledger.witnesses import WitnessFile
from ..targets.loader import Loader, Unsupported
from ..trials.trial import Trial
from .trace import Trace

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
_NAMES = frozenset({"missing-key", "unexpected-key", "key-removed", "key-added"})
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
    tensors: dict[str, int] = {}
    for name, witness in failures.items():
        trial = Trial(FAMILIES[witness.case.family], witness.case, loader)
        trace = traces[name] = trace_of(trial)
        tensors[name] = len(trial.upstream)
        kind = "values" if witness.kind in _VALUES else "shape" if witness.kind in _SHAPES else witness.kind
        tensor = witness.tensor if kind == "values" or kind.startswith("raises-") else ""
        # Names are a matter of the format, all else of what the conversion calls.
        way = trial.format.name if kind in _NAMES else frozenset(trace.functions)
        # Other channels or classes are asked of the factory, not of the loader.
        asked = witness.case.in_chans is not None, witness.case.num_classes is not None
        found.setdefault((kind, tensor, way, trace.ended, asked), []).append(name)

    def plainness(name: str) -> tuple[int, int, int]:
        return _rank(failures[name].invariant), tensors[name], len(failures[name].case.to_json())

    ordered = [sorted(names, key=plainness) for names in found.values()]
    return [Cause(names, traces[names[0]].ended, traces[names[0]].resampled) for names in ordered]


def trace_of(trial: Trial) -> Trace:
    """Where the load of a case ends in timm's source; nowhere for other loaders, or a model the release cannot build."""
    import timm

    trace, case, loader = Trace(Path(timm.__file__).resolve().parent), trial.case, trial.loader
    if loader.target.is_timm:
        checkpoint = trial.place(wrappers.wrap(trial.upstream, case.wrapper))
        with contextlib.suppress(Unsupported):
            model = trial.model()  # built outside: what a constructor does is not the loader's
            trace.run(lambda: loader.convert(trial.family, case.arch, checkpoint, model))
    return trace


def _rank(invariant: str) -> int:
    return _PLAINEST.index(invariant) if invariant in _PLAINEST else len(_PLAINEST)
