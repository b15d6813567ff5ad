"""Advice: the ledger's entries that explain a difference, and what a user can do about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from packaging.version import Version

from ..cases.case import Case
from ..families import READ, Family
from ..ledger.entries import Entry
from ..probes.registry import ProbeAnswer
from ..reference import Opened
from ..reference.errors import some
from ..targets.file_reader import first_to_read
from ..targets.loader import Loader
from ..trials.problems import Problem
from .explaining.cause import Cause
from .explaining.fitting import Fit
from .explaining.keys import shown
from .explaining.layouts import recognise_layout, shown_keys
from .explaining.nearest import Nearest, nearest_formats, telling_keys
from .loading import RequestedModel

# The invariants that compare what a check compares, and the kinds under which they report a wrong shape.
_INVARIANTS = ("strict-load", "reference-agreement", "create-model", "native-forward")
_KINDS = {"shape": ("shape", "size-mismatch")}
_SHOWN = 3
# A model that takes this much more than the best one is not worth a line (:mod:`.misfits`).
_FAR = 2.0
_FLAX = ("google_npz", "big_vision")
_BOTH_TOKENS = (
    "head.weight is",
    "the classifier reads the class token and the mean patch token, which no timm model does: --num-classes 0 leaves it out",
)
# What a refusal names, by format, and what it means.
_MISFITS = {
    "transformers_deit": (
        "unexpected: reg_token",
        "to timm, the distillation token is a register token, since it has no classifier: ask for a model without a second "
        "classifier, and for --option reg_tokens=1",
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


def with_quick_gelu(model: str, loader: Loader) -> list[str]:
    """The registered model that has OpenAI's QuickGELU in place of ``model``'s activation, if the release has one."""
    other = model.replace("_clip_", "_clip_quickgelu_")
    if other != model and loader.knows_model(other):
        return [f"--model {other} has QuickGELU, as OpenAI's models do"]
    return ["OpenAI's models have QuickGELU: create_model(..., act_layer='quick_gelu')"]


def first_reader(family: Family, case: Case, opened: Opened, release: Version | None) -> str:
    """That a later release opens a file whose tensors lie there; empty if none does."""
    saved = "+".join(filter(None, (".".join(opened.entry), opened.prefix)))
    first = first_to_read(family, replace(case, saved=saved), release) if release is not None else None
    return f"upgrade to timm {first} or later, which reads what lies {opened.where}" if first else ""


def in_no_release(form: str) -> list[str]:
    """One line if no timm release reads a format, else none."""
    read = [family for family in READ.values() if family.format == form and not family.in_no_release]
    return [] if read else [f"no timm release reads {form}; the reference does"]


def fix_hint() -> str:
    """The hint that ``--fix`` writes the reference's conversion."""
    return "--fix OUT.safetensors writes the reference's conversion, which every timm release loads"


def loading_code(wanted: RequestedModel, path: str) -> list[str]:
    """Two lines of Python that load a file written by ``--fix``."""
    arguments = "".join(f", {k}={v!r}" for k, v in wanted.arguments().items())
    return [
        f'model = timm.create_model("{wanted.model}"{arguments})',
        f'model.load_state_dict(safetensors.torch.load_file("{path}"))',
    ]


def cause_lines(causes: Iterable[Cause]) -> tuple[list[str], list[str]]:
    """What single causes say: what the file has, and what to do, one line a cause in each list."""
    causes = list(causes)
    return [cause.text for cause in causes], list(dict.fromkeys(cause.to_do for cause in causes))


def fit_lines(fits: Sequence[Fit], release: str) -> list[str]:
    """Registered models that a checkpoint fits, or what is between them, one line each, best first.

    ``release`` is the timm in whose registry they stand. After a model that fits, those that do not are left out, and those
    that need another architecture's options to fit. Where none fits, no model is named that is no nearer than the one asked for.
    """
    if not fits:
        return [f"no model that timm {release} registers is as wide as this checkpoint"]
    shown = [fit for fit in fits if fit.whole and fit.cost < fits[0].cost + _FAR]
    alike = "no tensor tells these models apart: number of heads, activation and rotary periods stand in none"
    if shown:
        return [*map(_fit_line, shown), *([alike] if len(shown) > 1 else [])]
    last = next((n for n, fit in enumerate(fits) if fit.asked), len(fits) - 1)
    near = [fit for fit in fits[: last + 1] if len(fit.misfits) + len(fit.changes) <= _SHOWN + 1]
    return [_fit_line(fit) for fit in near] or [f"no model that timm {release} registers is near; {_fit_line(fits[0])}"]


def _fit_line(fit: Fit) -> str:
    changes = f" (this checkpoint: {'; '.join(fit.changes)})" if fit.changes else ""
    unused = f"; it leaves out {', '.join(fit.unused)}" if fit.unused else ""
    if fit.whole:
        return f"every tensor fits {fit.call}{changes}{unused}"
    tensors = f"{fit.tensors} tensors do not" if fit.tensors > 1 else "1 tensor does not"
    return f"{fit.call}{changes}: {tensors} fit: {_limited(fit.misfits)}{unused}"


def _limited(texts: Sequence[str]) -> str:
    """The first few texts, and the number of the others."""
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def unknown_layout_lines(names: Collection[str]) -> tuple[str, list[str]]:
    """What a checkpoint of no known format looks like, in one line, and what to do or to compare, one line each.

    ``names`` are its tensors' names.
    """
    layout = recognise_layout(names)
    if layout and not layout.part:
        keys = some(shown_keys(layout, names))
        return f"this is the layout of {layout.name} ({layout.source}), by {keys}; no timm release reads it", [
            layout.to_do
        ]
    told = f"unknown checkpoint format; the keys that tell most are {some(telling_keys(names))}"
    beside = [f"it holds {layout.name} ({some(shown_keys(layout, names))}): {layout.to_do}"] if layout else []
    return told, [*beside, *map(_nearest_line, nearest_formats(names))]


def _nearest_line(near: Nearest) -> str:
    parts = [f"nearest known format: {near.format}, {near.share:.0%} of the names agree"]
    parts += [f"behind the prefix {near.prefix}"] if near.prefix else []
    parts += ["its blocks are {1}*, this file's {0}*".format(*map(shown, near.blocks))] if near.blocks else []
    parts += [f"missing here: {some(near.missing)}"] if near.missing else []
    parts += [f"unknown there: {some(near.foreign)}"] if near.foreign else []
    return "; ".join(parts)


def after_refusal(reason: str, form: str) -> list[str]:
    """What a refusal's reason means for a format, and what to do, where the tensors show no more than that."""
    if form in _MISFITS and _MISFITS[form][0] in reason:
        return [_MISFITS[form][1]]
    if "pass input_size=" in reason:
        return ["pass --input-size HxW: the image size in pixels that the checkpoint was trained at"]
    return []
