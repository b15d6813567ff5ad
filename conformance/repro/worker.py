"""The process with the target's timm that writes the scripts of a target's failures."""

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

if TYPE_CHECKING:  # only the process that answers imports torch
    from ..targets.loader import Loader
    from .script import About


class Stored(msgspec.Struct, frozen=True):
    """A failure with the name under which it is stored, and a title and explanations if it is known."""

    name: str
    witness: WitnessFile
    title: str = ""
    paragraphs: list[str] = []


class Request(msgspec.Struct, frozen=True):
    """The failures of a target."""

    target: str
    failures: list[Stored]


class Answer(msgspec.Struct, frozen=True):
    """A script for failures with one cause. ``names`` begins with the failure that it shows.

    ``text`` is empty if no checkpoint of plain numbers shows them. ``mistake`` is an error of this suite while it wrote the
    script. ``pattern`` is a pattern that the script's output has to match. ``ended`` and ``resampled`` are lines of timm:
    :class:`timm_conformance.repro.trace.Trace`.
    """

    names: list[str]
    text: str = ""
    pattern: str = ""
    ended: str = ""
    resampled: list[str] = []
    mistake: str = ""


def request_scripts(target: Target, failures: list[Stored], timeout: float) -> list[Answer]:
    """The scripts for failures of a target, one for each cause. Raises :class:`UserError`."""
    request = Request(target.spec, failures)
    return subprocess_call.call(__name__, request, list[Answer], f"target {target.spec!r}", timeout)


def answer_request(request: Request) -> list[Answer]:
    """Group the failures by cause, and write a script for each cause."""
    import torch

    from ..invariants import INVARIANTS
    from ..targets.loader import Loader
    from .causes import group_by_cause

    torch.set_num_threads(1)
    for failure in request.failures:
        if failure.witness.invariant not in INVARIANTS:
            raise UserError(f"{failure.name}: {unknown('invariant', failure.witness.invariant, INVARIANTS)}")
    try:
        loader = Loader(parse_target(request.target))
    except Exception as error:
        raise UserError(cannot_start(error)) from None
    known = {f.name: f for f in request.failures}
    causes = group_by_cause({f.name: f.witness for f in request.failures}, loader)
    return [_answer([known[n] for n in cause.names], cause.ended, cause.resampled, loader) for cause in causes]


def _answer(failures: list[Stored], ended: str, resampled: list[str], loader: Loader) -> Answer:
    from .generate import find_script

    names, mistake = [f.name for f in failures], ""
    for shown in failures:
        try:
            attempt = find_script(shown.witness, loader, _about(shown, loader))
        except Exception as error:  # only this script fails, not the others
            mistake = f"{type(error).__name__}: {one_line(error)}"
            continue
        if attempt is not None:
            others = [n for n in names if n != shown.name]
            return Answer([shown.name, *others], attempt.text, attempt.pattern, ended, resampled)
    return Answer(names, ended=ended, resampled=resampled, mistake=mistake)


def _about(stored: Stored, loader: Loader) -> About:
    """What a script says it is about; of a new failure, only the violated invariant is known."""
    from ..invariants import INVARIANTS
    from .script import About

    if stored.title:
        return About(stored.title, stored.paragraphs, _dependencies(loader))
    witness = stored.witness
    title = f"{witness.tensor or 'The checkpoint'} of a {witness.case.family} checkpoint: {witness.kind}"
    violated = f"The invariant it violates, {witness.invariant}: {INVARIANTS[witness.invariant].statement}"
    return About(title, [violated, f"The case: {witness.case.describe()}."], _dependencies(loader))


def _dependencies(loader: Loader) -> list[str]:
    """Dependencies of a script: the versions of torch and timm with which it was run."""
    target = loader.target
    timm = f"timm @ {Path(target.value).as_uri()}" if target.kind == "path" else f"timm=={loader.timm_version}"
    return [f"torch=={version('torch').split('+')[0]}", timm]


if __name__ == "__main__":
    sys.exit(subprocess_call.serve(answer_request, Request))
