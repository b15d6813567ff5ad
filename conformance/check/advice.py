"""Advice: the ledger's entries that explain a difference, and what a user can do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..drawing.catalogue import models_of
from ..families import READ
from ..ledger.entries import Entry
from ..probes.registry import ProbeAnswer
from ..trials.problems import Problem
from .loading import RequestedModel

# The invariants that compare what a check compares, and the kinds under which they report a wrong shape.
_INVARIANTS = ("strict-load", "reference-agreement", "create-model", "native-forward")
_KINDS = {"shape": ("shape", "size-mismatch")}
_SHOWN = 3
_FLAX = ("google_npz", "big_vision")
_BOTH_TOKENS = (
    "head.weight is",
    "the classifier reads the class token and the mean patch token, which no timm model does: --num-classes 0 leaves it out",
)
# What a refusal names, by format, and what it means.
_MISFITS = {
    "transformers_deit": (
        "unexpected: reg_token",
        "to timm, the distillation token is a register token, since it has no classifier: the model needs reg_tokens=1, so load "
        "with timm_conformance.reference.load_state_dict",
    ),
    "transformers_dinov2": _BOTH_TOKENS,
    "transformers_dinov2_registers": _BOTH_TOKENS,
    "transformers_dinov2_swiglu": _BOTH_TOKENS,
}
_MOBILECLIP = ("mobileclip", "hybrid_convstem")


def explaining_entries(
    entries: Sequence[Entry], families: Iterable[str], problem: Problem, regimes: frozenset[str]
) -> list[str]:
    """Ids of those of the target's entries (:meth:`timm_conformance.ledger.entries.Ledger.active`) that explain a problem."""
    families = list(families)
    return [
        entry.id
        for entry in entries
        if any(
            entry.covers(family, invariant, kind, problem.tensor, regimes)
            for family in families
            for invariant in _INVARIANTS
            for kind in _KINDS.get(problem.kind, (problem.kind,))
        )
    ]


def describe(entry: Entry) -> str:
    """An entry in one line: its kind, id, title and link."""
    where = f" ({entry.link})" if entry.link else ""
    return f"{entry.kind} {entry.id}: {entry.title}{where}"


def remedy(entry: Entry, faults: Mapping[str, ProbeAnswer]) -> str:
    """The release that fixes an entry's bug, in one line. ``faults`` are the faults of libraries, by probe."""
    if entry.probe:
        answer = faults[entry.probe]
        return f"{answer.text}: {answer.library} is at fault, not the loader; `timm-conformance doctor` shows it"
    later = [s.version for s in entry.range if s.operator == "<"]
    return (
        f"upgrade to timm {later[0]} or later, where this is mended" if later else "no timm release has mended this yet"
    )


def causes_beside_the_loader(form: str, taken: Mapping[str, Any], same_load: bool) -> list[str]:
    """Causes of another output that are not the loader's.

    ``same_load`` says that the tensors of this very load were compared and are right. ``taken`` are options of the model.
    """
    right = "every tensor is right: what differs is the model's own code or options, no loader's doing"
    lines = [right] if same_load else []
    if form.startswith(_FLAX) and taken["act"] == "gelu":
        lines.append(
            'flax has another gelu than the model: create_model(..., act_layer=partial(nn.GELU, approximate="tanh")) has it'
        )
    if form in _MOBILECLIP:
        lines.append("timm's MobileCLIP does not pad its first convolution, upstream's does (docs/findings.md)")
    return lines


def in_no_release(form: str) -> list[str]:
    """One line if no timm release reads a format, else none."""
    read = [family for family in READ.values() if family.format == form and not family.in_no_release]
    return [] if read else [f"no timm release reads {form}; the reference does"]


def fix_hint() -> str:
    """The hint that ``--fix`` writes the reference's conversion."""
    return "--fix OUT.safetensors writes the reference's conversion, which every timm release loads"


def loading_code(wanted: RequestedModel, path: str) -> list[str]:
    """Two lines of Python that load a file written by ``--fix``."""
    arguments = "".join(f", {k}={v}" for k, v in wanted.arguments().items())
    return [
        f'model = timm.create_model("{wanted.model}"{arguments})',
        f'model.load_state_dict(safetensors.torch.load_file("{path}"))',
    ]


def after_refusal(reason: str, form: str) -> list[str]:
    """Advice for a checkpoint that the reference refuses. ``form`` is its format, empty if unknown."""
    if "pass input_size=" in reason:
        return ["pass --input-size HxW: the image size in pixels that the checkpoint was trained at"]
    if "does not fit the model" in reason and form in _MISFITS and _MISFITS[form][0] in reason:
        return [_MISFITS[form][1]]
    models = [m.name for f in READ.values() if f.format == form for m in models_of(f)]
    if models and "does not fit the model" in reason:
        return [f"is --model right? checkpoints of {form} are those of {', '.join(models[:_SHOWN])} and their like"]
    return []
