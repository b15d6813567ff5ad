"""Groups the failures of a target by cause: the same kind of failure, and a load that ends at the same line of timm.

Such failures mostly have one cause. Wrong values of two tensors are two causes. Two tensors that are missing, or that are not
resampled, are one cause.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints import wrappers
from ..families import FAMILIES
from ..ledger.witnesses import WitnessFile
from ..targets.loader import Loader
from ..targets.models import Unsupported
from ..trials.trial import Trial
from .trace import Trace

# Kinds of problems by which invariants report wrong values of a tensor.
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
# Invariants whose failures show most clearly what is wrong, the clearest first.
_CLEAREST = ("strict-load", "native-identity", "reference-agreement", "prefix-tokens-kept", "no-early-return")


@dataclass(frozen=True)
class Cause:
    """Names of failures with one cause, the clearest first, and the lines of the loader where it ended and resampled."""

    names: list[str]
    ended: str
    resampled: list[str]


def group_by_cause(failures: Mapping[str, WitnessFile], loader: Loader) -> list[Cause]:
    """The causes of failures, in the order in which they were found."""
    keys: dict[str, tuple] = {}
    traces: dict[str, Trace] = {}
    tensors: dict[str, int] = {}
    outputs: dict[str, set[str]] = {}
    for name, witness in failures.items():
        trial = Trial(FAMILIES[witness.case.family], witness.case, loader)
        trace = traces[name] = trace_of(trial)
        tensors[name] = len(trial.upstream)
        kind = "values" if witness.kind in _VALUES else "shape" if witness.kind in _SHAPES else witness.kind
        tensor = witness.tensor if kind == "values" or kind.startswith("raises-") else ""
        # Wrong names depend on the format, everything else on the functions that the conversion calls.
        way = trial.format.name if kind in _NAMES else frozenset(trace.functions)
        # The model factory, not the loader, adapts a model to other channels, classes or options, and opens a file.
        case = witness.case
        outside = case.in_chans is not None, case.other_classes, bool(case.asked), bool(case.saved)
        keys[name] = kind, tensor, way, trace.ended, outside
        if witness.kind == "output":
            outputs[name] = _wrong_tensors(trial)
    found: dict[tuple, list[str]] = {}
    for name in failures:
        # A wrong output follows from a wrong tensor, where another failure reports that tensor.
        reported = (
            n
            for n, w in failures.items()
            if w.kind in _VALUES and w.case.family == failures[name].case.family and w.tensor in outputs.get(name, ())
        )
        found.setdefault(keys[next(reported, name)], []).append(name)

    def sort_key(name: str) -> tuple[int, int, int]:
        return _rank(failures[name].invariant), tensors[name], len(failures[name].case.to_json())

    ordered = [sorted(names, key=sort_key) for names in found.values()]
    return [Cause(names, traces[names[0]].ended, traces[names[0]].resampled) for names in ordered]


def _wrong_tensors(trial: Trial) -> set[str]:
    """The names, for all blocks, of the loaded tensors that differ from the expected ones."""
    if not trial.base.ok:
        return set()
    got = {k: v for k, v in trial.base.state.items() if k in trial.expected}
    return {p.tensor for p in trial.compare_all(got, {k: trial.expected[k] for k in got}, trial.bound)}


def trace_of(trial: Trial) -> Trace:
    """The trace of a case's load in timm's source. It is empty for other loaders and for models that the release lacks."""
    import timm

    trace, case, loader = Trace(Path(timm.__file__).resolve().parent), trial.case, trial.loader
    if loader.target.is_timm:
        checkpoint = trial.to_device(wrappers.wrap(trial.upstream, case.wrapper))
        with contextlib.suppress(Unsupported):
            model = trial.model()  # built before the trace starts: a constructor is no part of the loader
            trace.run(lambda: loader.convert(trial.family, case.arch, checkpoint, model))
    return trace


def _rank(invariant: str) -> int:
    return _CLEAREST.index(invariant) if invariant in _CLEAREST else len(_CLEAREST)
