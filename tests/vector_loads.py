"""What a target makes of the stored golden vectors: ``python -m tests.vector_loads TARGET`` prints it, one timm a process.

JSON of the ``judged`` vectors and the ``wrong`` ones: these with each problem, ``invariant:kind:tensor``, and the entry of the
ledger, of those its release has, that explains it, or null. Vectors that a release knows nothing of are not judged.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor

from timm_conformance.checkpoints import wrappers
from timm_conformance.families import FAMILIES, READ
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.models import Unsupported
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.acceptance import fits
from timm_conformance.trials.loaded import Loaded
from timm_conformance.trials.problems import Problem
from timm_conformance.trials.trial import Trial
from timm_conformance.vectors import schema
from timm_conformance.vectors.selection import FOLDER, VECTORS_JSON


def documents() -> Iterator[schema.Vectors]:
    """The stored vectors of every family."""
    for name in READ:
        yield msgspec.json.decode((FOLDER / name / VECTORS_JSON).read_bytes(), type=schema.Vectors)


DOCUMENTS = {document.family: document for document in documents()}
VECTORS = [(document, vector) for document in DOCUMENTS.values() for vector in document.vectors]


def tensors(document: schema.Vectors, file: schema.File | schema.Checkpoint) -> dict[str, Tensor]:
    """A file that a vector names."""
    return load_file(FOLDER / document.family / file.file)


def off(got: Tensor, want: Tensor) -> float:
    """Largest absolute error, infinite where there is no number."""
    error = (got.double() - want.double()).abs()
    return float(error.nan_to_num(float("inf")).max()) if error.numel() else 0.0


def problems(
    trial: Trial, loaded: Loaded, vector: schema.Valid, want: dict[str, Tensor]
) -> Iterator[tuple[str, Problem]]:
    """How a load falls short of a vector: by a strict load, and tensor by tensor."""
    trial.__dict__["base"] = loaded
    yield from (("strict-load", p) for p in INVARIANTS["strict-load"].check(trial))
    for name, tensor in want.items() if loaded.ok else ():
        got = loaded.state.get(name)
        if got is None:
            yield "reference-agreement", Problem("missing-key", name, "")
        elif got.shape != tensor.shape:
            yield "reference-agreement", Problem("shape", name, "")
        elif off(got, tensor) > (vector.resampled[name].tolerance if name in vector.resampled else 0.0):
            yield "reference-agreement", Problem("value", name, "")


def refused(trial: Trial, loaded: Loaded) -> bool:
    """Whether a load raised, or the strict load after it would; a file read straight into a model has none after it."""
    return not loaded.ok or not (
        (trial.loader.target.is_timm and trial.family.in_place) or fits(trial.model(), loaded.raw)
    )


def judge(spec: str) -> dict[str, Any]:
    """What a target gets right and wrong."""
    torch.set_num_threads(1)
    loader = Loader(parse_target(spec))
    entries = load_ledger(DEFAULT_LEDGER).active(loader.release)
    judged, wrong = [], {}
    for document in documents():
        family = FAMILIES[document.family]
        for vector in document.vectors if loader.supports(family) else ():
            if loader.unsupported(family, vector.case):
                continue
            trial = Trial(family, vector.case, loader)
            wrapper = ".".join(vector.checkpoint.wrapper) or "bare"
            try:
                loaded = trial.convert(wrappers.wrap(tensors(document, vector.checkpoint), wrapper))
                if isinstance(vector, schema.Valid):
                    found = list(problems(trial, loaded, vector, tensors(document, vector.expected)))
                else:
                    taken = [] if refused(trial, loaded) else [Problem("loaded", vector.tensor, "")]
                    found = [("refuses", p) for p in taken]
            except Unsupported:
                continue
            judged.append(vector.id)
            for invariant, p in found:
                owners = [e.id for e in entries if e.covers(family.name, invariant, p.kind, p.tensor, trial.regimes)]
                wrong.setdefault(vector.id, {})[f"{invariant}:{p.kind}:{p.tensor}"] = owners[0] if owners else None
    return {"judged": judged, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(judge(sys.argv[1])))
