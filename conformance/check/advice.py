"""What the ledger says about a difference, and what a user can do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from packaging.version import Version

from ..drawing.catalogue import models_of
from ..families import FAMILIES
from ..ledger.entries import Entry, Ledger
from ..trials.problems import Problem
from .loading import Wanted

# The invariants that see what a check sees, and the kinds of failure they call a tensor of another shape.
_INVARIANTS = ("strict-load", "reference-agreement", "create-model", "native-forward")
_KINDS = {"shape": ("shape", "size-mismatch")}
_SHOWN = 3
_FLAX = ("google_npz", "big_vision")
_MOBILECLIP = ("mobileclip", "hybrid_convstem")


def explaining(
    ledger: Ledger, release: Version | None, families: Iterable[str], problem: Problem, regimes: frozenset[str]
) -> list[str]:
    """Ids of the ledger's entries that explain a difference in a release."""
    families = list(families)
    return [
        entry.id
        for entry in ledger.active(release)
        if any(
            entry.covers(family, invariant, kind, problem.tensor, regimes)
            for family in families
            for invariant in _INVARIANTS
            for kind in _KINDS.get(problem.kind, (problem.kind,))
        )
    ]


def known(entry: Entry) -> str:
    """An entry in words."""
    where = f" ({entry.link})" if entry.link else ""
    return f"{entry.kind} {entry.id}: {entry.title}{where}"


def mended(entry: Entry) -> str:
    """Which release to turn to."""
    if entry.kind == "dependency":
        return f"torch {entry.torch} is at fault, not timm: try another torch"
    later = [s.version for s in entry.range if s.operator == "<"]
    return (
        f"upgrade to timm {later[0]} or later, where this is mended" if later else "no timm release has mended this yet"
    )


def beside_the_loader(form: str, taken: Mapping[str, Any], same_load: bool) -> list[str]:
    """Why a model may compute something else although its tensors are right, as they are known to be of the ``same_load``."""
    right = "every tensor is right: what differs is the model's own code or options, no loader's doing"
    lines = [right] if same_load else []
    if form.startswith(_FLAX) and taken["act"] == "gelu":
        lines.append(
            'flax has another gelu than the model: create_model(..., act_layer=partial(nn.GELU, approximate="tanh")) has it'
        )
    if form in _MOBILECLIP:
        lines.append("timm's MobileCLIP does not pad its first convolution, upstream's does (docs/findings.md)")
    return lines


def to_fix() -> str:
    """That the reference's conversion can be written."""
    return "--fix OUT.safetensors writes the reference's conversion, which every timm release loads"


def to_load(wanted: Wanted, path: str) -> list[str]:
    """How a written file is loaded, as two lines of Python."""
    arguments = "".join(f", {k}={v}" for k, v in wanted.arguments().items())
    return [
        f'model = timm.create_model("{wanted.model}"{arguments})',
        f'model.load_state_dict(safetensors.torch.load_file("{path}"))',
    ]


def of_refusal(reason: str, form: str) -> list[str]:
    """What to do where the reference cannot use a checkpoint of a format, which may be unknown."""
    if "pass input_size=" in reason:
        return ["pass --input-size HxW: the image size in pixels that the checkpoint was trained at"]
    models = [m.name for f in FAMILIES.values() if f.format == form for m in models_of(f)]
    if models and "does not fit the model" in reason:
        return [f"is --model right? checkpoints of {form} are those of {', '.join(models[:_SHOWN])} and their like"]
    return []
