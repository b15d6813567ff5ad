"""Renders an answer as labelled lines of text, without colours or tables, so that it fits a log."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ..cases.case import Geometry, Size
from ..report.terminal import make_console
from .protocol import Answer, Difference, Forward

_LABEL = 12
_SHOWN = 4
# Kinds of differences in which tensors have no values to compare.
_OF_NAMES = {"missing-key": "missing", "unexpected-key": "unexpected"}
# Meanings of the exit codes.
_MEANS = {
    0: "the target loads what the reference does",
    1: "the target refuses the checkpoint, or makes something else of it than the reference",
    2: "the reference cannot use the checkpoint",
}


def render(answer: Answer, checkpoint: Path) -> None:
    """Print an answer about a checkpoint."""
    console = make_console()
    for label, line in lines(answer, checkpoint):
        console.print(f"{label:{_LABEL}}{line}", markup=False, soft_wrap=True)


def lines(answer: Answer, checkpoint: Path) -> list[tuple[str, str]]:
    """The lines of an answer, each with its label. A label is empty if it is the same as the line's above."""
    out = [("checkpoint", ", ".join(filter(None, (str(checkpoint), answer.container, answer.opened))))]
    out += [("", line) for line in answer.read]
    out += _labelled("beside it", answer.beside)
    if answer.format:
        keys = ", ".join(answer.evidence)
        families = [name for name in answer.families if name != answer.format]
        also = f"; as the family {', '.join(families)}" if families else ""
        out.append(("format", f"{answer.format}, by {keys}{also}"))
    if answer.source and answer.destination:
        source, destination = (_geometry(g, answer.stride) for g in (answer.source, answer.destination))
        out.append(("geometry", source if source == destination else f"{source} -> {destination}"))
        out += [("", line) for line in _counts(answer)]
    out += _labelled("note", answer.notes)
    out += _labelled("cause", answer.causes)
    if answer.refused:
        out.append(("reference", f"cannot use it: {answer.refused}"))
        out.append(("target", f"{answer.target}, {answer.model}: {_all_the_same(answer)}"))
        out += _given(answer)
    else:
        if answer.unread:
            out.append(("target", answer.unread))
            out.append(("", f"given {answer.given}, it {_loads(answer)}"))
        else:
            out.append(("target", f"{answer.target}, {answer.model}: {_loads(answer)}"))
            out += _given(answer)
        out += _labelled("the call" if not answer.error else "call tried", answer.call)
        out += _labelled("not by", answer.not_by)
        out += _labelled("differs", _differences(answer))
        assert answer.forward is not None  # it is compared unless the reference refuses
        out.append(("forward", _forward(answer.forward)))
        if answer.forward.taken:
            taken = ", ".join(f"{k}={v}" for k, v in answer.forward.taken.items())
            out.append(("", f"not compared, since no tensor tells it and it was taken from the model: {taken}"))
    out += _labelled("fixed", [f"{answer.fixed}, the reference's conversion"] if answer.fixed else [])
    out += _labelled("known", answer.known)
    out += _labelled("to do", answer.advice)
    return [*out, ("exit code", f"{answer.exit_code}: {_MEANS[answer.exit_code]}")]


def _labelled(label: str, found: list[str]) -> list[tuple[str, str]]:
    return [(label if n == 0 else "", line) for n, line in enumerate(found)]


def _given(answer: Answer) -> list[tuple[str, str]]:
    return [("", f"it was given {answer.given}")] if answer.given else []


def _geometry(geometry: Geometry, stride: Size) -> str:
    height, width = (n * s for n, s in zip(geometry.img_size, stride))
    return f"{geometry} ({height}x{width} pixels)"


def _counts(answer: Answer) -> list[str]:
    pairs = (("classes", "class", answer.classes), ("channels", "channel", answer.in_chans))
    counts = [f"{old} {what if old != 1 else one} -> {new}" for what, one, (old, new) in pairs if old != new]
    windows = ["{}x{}".format(*window) for window in answer.windows or ()]
    return [*counts, *([f"relative positions of windows {' -> '.join(dict.fromkeys(windows))}"] if windows else [])]


def _loads(answer: Answer) -> str:
    if not answer.loaded:
        known = [_known(d.entries) for d in answer.differences if d.text == answer.error]
        return f"refuses it: {answer.error}{''.join(known)}"
    if answer.differences:
        return "loads it without complaint, but not as the reference does"
    within = f", the worst at {answer.fraction:.2g} of what rounding allows" if answer.fraction else ", bit for bit"
    return f"loads it; {answer.tensors} tensors agree with the reference{within}"


def _all_the_same(answer: Answer) -> str:
    if not answer.loaded:
        return f"refuses it, too: {answer.error}"
    return f"loads it all the same, without complaint: {answer.tensors} tensors of the model"


def _differences(answer: Answer) -> list[str]:
    """One line for each difference; one for all tensors that are missing, or unexpected, for the same reason."""
    alike: dict[tuple[str, ...], list[Difference]] = defaultdict(list)
    for found in answer.differences:
        if found.text != answer.error:
            own = () if found.kind in _OF_NAMES else (found.tensor,)
            key = (found.kind, *found.entries, *own)
            alike[key].append(found)
    return [_difference(group[0]) if len(group) == 1 else _names(group) for group in alike.values()]


def _names(group: list[Difference]) -> str:
    """Tensors of several names that are missing or unexpected."""
    names, total = [d.tensor for d in group], sum(d.count for d in group)
    listed = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more names" if len(names) > _SHOWN else "")
    return f"{total} tensors are {_OF_NAMES[group[0].kind]}: {listed}{_known(group[0].entries)}"


def _difference(found: Difference) -> str:
    count = f" ({found.count} tensors {found.tensor})" if found.count > 1 else ""
    return f"{found.text}{count}{_known(found.entries)}"


def _known(entries: list[str]) -> str:
    return f" [{', '.join(entries)}]" if entries else ""


def _forward(found: Forward) -> str:
    if found.verdict == "same":
        return f"the output of the upstream model at the checkpoint's own size, at {found.fraction:.2g} of what rounding allows"
    beside = " from the upstream model" if found.verdict == "differs" else ""
    return f"{found.verdict}{beside}: {found.text}{_known(found.entries)}"
