"""Writes the scripts of a target's failures, in a process with the target's timm."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..errors import UserError, cannot_start, one_line, unknown
from ..ledger.witnesses import WitnessFile
from ..targets import subprocess_call
from ..targets.target import Target, parse_target

if TYPE_CHECKING:  # asking takes no torch, answering does
    from ..targets.loader import Loader
    from .script import About


class Stored(msgspec.Struct, frozen=True):
    """A failure by the name it is stored under, and what is known about it, if anything: a title, and explanations."""

    name: str
    witness: WitnessFile
    title: str = ""
    paragraphs: list[str] = []


class Request(msgspec.Struct, frozen=True):
    """The failures of a target."""

    target: str
    failures: list[Stored]


class Answer(msgspec.Struct, frozen=True):
    """A script for failures of one cause, the one it shows first.

    ``text`` is empty where no plain checkpoint shows them; ``mistake`` is what went wrong in the writing. ``says`` is a
    pattern that the script's output has to match. ``ended`` and ``resampled`` are lines of timm:
    :class:`timm_conformance.repro.trace.Trace`.
    """

    names: list[str]
    text: str = ""
    says: str = ""
    ended: str = ""
    resampled: list[str] = []
    mistake: str = ""


def ask(target: Target, failures: list[Stored], timeout: float) -> list[Answer]:
    """The scripts for failures of a target, one for each cause. Raises :class:`UserError`."""
    request = Request(target.spec, failures)
    return subprocess_call.ask(__name__, request, list[Answer], f"target {target.spec!r}", timeout)


def answers(request: Request) -> list[Answer]:
    """Collapse the failures into their causes, and write a script for each."""
    import torch

    from ..invariants import INVARIANTS
    from ..targets.loader import Loader
    from .causes import collapse

    torch.set_num_threads(1)
    for failure in request.failures:
        if failure.witness.invariant not in INVARIANTS:
            raise UserError(f"{failure.name}: {unknown('invariant', failure.witness.invariant, INVARIANTS)}")
    try:
        loader = Loader(parse_target(request.target))
    except Exception as error:
        raise UserError(cannot_start(error)) from None
    known = {f.name: f for f in request.failures}
    causes = collapse({f.name: f.witness for f in request.failures}, loader)
    return [_answer([known[n] for n in cause.names], cause.ended, cause.resampled, loader) for cause in causes]


def _answer(failures: list[Stored], ended: str, resampled: list[str], loader: Loader) -> Answer:
    from .generate import first_shown

    names, mistake = [f.name for f in failures], ""
    for shown in failures:
        try:
            attempt = first_shown(shown.witness, loader, _about(shown, loader))
        except Exception as error:  # costs this script, not the others
            mistake = f"{type(error).__name__}: {one_line(error)}"
            continue
        if attempt is not None:
            others = [n for n in names if n != shown.name]
            return Answer([shown.name, *others], attempt.text, attempt.says, ended, resampled)
    return Answer(names, ended=ended, resampled=resampled, mistake=mistake)


def _about(stored: Stored, loader: Loader) -> About:
    """What a script says it is about; of a new failure no more is known than which promise is broken."""
    from ..invariants import INVARIANTS
    from .script import About

    if stored.title:
        return About(stored.title, stored.paragraphs, _dependencies(loader))
    witness = stored.witness
    title = f"{witness.tensor or 'The checkpoint'} of a {witness.case.family} checkpoint: {witness.kind}"
    promise = f"The promise it breaks, {witness.invariant}: {INVARIANTS[witness.invariant].promise}"
    return About(title, [promise, f"The case: {witness.case.describe()}."], _dependencies(loader))


def _dependencies(loader: Loader) -> list[str]:
    """What a script has to have installed: what it was seen to work with."""
    target = loader.target
    timm = f"timm @ {Path(target.value).as_uri()}" if target.kind == "path" else f"timm=={loader.timm_version}"
    return [f"torch=={version('torch').split('+')[0]}", timm]


if __name__ == "__main__":
    sys.exit(subprocess_call.serve(answers, Request))
