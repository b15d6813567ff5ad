"""Generates a script that shows a stored failure on the target of this process.

Every attempt is a whole script. It runs here, in the worker, and is kept if it finds the bug and names what the failure names.
A run in a fresh interpreter follows (:mod:`timm_conformance.repro.execution`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from msgspec.structs import replace

from .. import reference
from ..families import FAMILIES
from ..invariants import INVARIANTS
from ..invariants.equivalence import output
from ..invariants.naflex import classic_trial
from ..ledger.witnesses import WitnessFile
from ..targets.loader import Loader
from ..targets.models import Unsupported
from ..trials import bounds
from ..trials.acceptance import fits
from ..trials.trial import Trial
from . import asked, assertions, doors, script
from .entry_points import by_create_model, by_function, by_load_pretrained, load_calls
from .script import About, Assertion
from .scriptable_case import Circumstances, ScriptableCase, matches
from .substitute import can_substitute, reference_substituted


@dataclass(frozen=True)
class Attempt:
    """A script, and a pattern that its output must match."""

    text: str
    pattern: str


def find_script(witness: WitnessFile, loader: Loader, about: About) -> Attempt | None:
    """The first script that shows a witness's failure here; None if no checkpoint of plain numbers does."""
    return next((a for a in _attempts(witness, loader, about) if shows(a, witness, loader)), None)


# Invariants of what timm does around the conversion.
_OF_THE_FACTORY = ("create-model", "trained-tensors-used", "doors-agree")


def shows(attempt: Attempt, witness: WitnessFile, loader: Loader) -> bool:
    """Whether a script, run in this process, finds its bug and names it, and finds no bug in a loader without it."""
    code, said = run_here(attempt.text)
    if code != 1 or not re.search(attempt.pattern, said):
        return False
    family = FAMILIES[witness.case.family]
    if not can_substitute(family, loader):
        return True
    with reference_substituted(family, witness.case.arch, loader):
        code, said = run_here(attempt.text)
    # A bug of the model, or of the factory that adapts it, stays the same with another loader.
    elsewhere = witness.invariant in _OF_THE_FACTORY or witness.invariant.endswith("-forward")
    return code == 0 or (elsewhere and re.search(attempt.pattern, said) is not None)


def run_here(text: str) -> tuple[int, str]:
    """Exit code and output of a script that is run in this process, with its timm."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), torch.random.fork_rng(devices=[]):
            exec(compile(text, "script", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        return int(ended.code or 0), said.getvalue()
    except Exception as error:
        return -1, f"{said.getvalue()}{type(error).__name__}: {error}"
    return 0, said.getvalue()


def _attempts(witness: WitnessFile, loader: Loader, about: About) -> Iterator[Attempt]:
    seen = set()
    for circumstances in _circumstances(witness, loader):
        if circumstances in seen:
            continue
        seen.add(circumstances)
        # Some circumstances have no model in a release, or a source grid that the checkpoint alone does not decide.
        with contextlib.suppress(Unsupported, reference.LoadError, LookupError):
            yield from _scripts(witness, ScriptableCase(circumstances, loader), about)


def _circumstances(witness: WitnessFile, loader: Loader) -> Iterator[Circumstances]:
    """The case of a witness, and the variants of it that its invariant loads. One of them shows the bug by itself."""
    case, name = replace(witness.case, saved=""), witness.invariant
    damaged = INVARIANTS[name].theme == "rejection"
    plainest = Circumstances(case, damaged=witness.tensor if damaged else None)
    bare = {k: 0 for k in ("depth", "stages") if case.arch.get(k) and k not in case.asked}
    if bare:  # most bugs are outside the blocks, and blocks make a script long
        yield dataclasses.replace(plainest, case=replace(case, arch=case.arch | bare))
    if name == "foreign-keys-ignored":
        yield Circumstances(case, foreign=True)
    if name == "order-independent":
        yield Circumstances(case, shuffled=True)
    if name == "wrapper-transparent" and (other := Trial(FAMILIES[case.family], case, loader).other_wrapper):
        yield Circumstances(replace(case, wrapper=other))
    if name == "trained-tensors-used" or (name == "create-model" and case.container == "safetensors"):
        plainest = Circumstances(replace(case, wrapper="bare"))
    yield plainest
    if witness.case.saved and name in ("trained-tensors-used", "create-model"):
        yield Circumstances(witness.case)
    if not damaged:
        yield Circumstances(replace(case, source=case.source.transposed(), destination=case.destination.transposed()))
        yield Circumstances(replace(case, source=case.destination))
        yield Circumstances(replace(case, destination=case.source))


def _scripts(witness: WitnessFile, scripted: ScriptableCase, about: About) -> Iterator[Attempt]:
    """Scripts of a failure under some circumstances, by the kind of invariant it violates."""
    name = witness.invariant
    if INVARIANTS[name].theme == "rejection":
        yield from _refusals(witness, scripted, about)
    elif name == "trained-tensors-used":
        for assertion, pattern in asked.assertions_of(witness, scripted):
            by_dict = doors.calls(scripted) if scripted.case.saved and scripted.case.door == "state-dict" else ()
            for call in (*by_dict, *by_create_model(scripted)):
                yield Attempt(script.text(about, scripted.code, call, assertion), pattern)
    elif name == "doors-agree":
        assertion, pattern = doors.assertion_of(witness, scripted)
        for call in doors.calls(scripted):
            yield Attempt(script.text(about, scripted.code, call, assertion), pattern)
    elif INVARIANTS[name].theme == "ambient":
        found = by_function(scripted)
        if found is not None:
            call, convert = found
            says = witness.kind.removeprefix("raises-") if witness.kind.startswith("raises-") else witness.tensor
            assertion = assertions.ambient_state(witness.case.ambient, convert)
            yield Attempt(script.text(about, scripted.code, call, assertion), _named(says))
    elif witness.kind.startswith("raises-"):
        yield from _raised(witness, scripted, about)
    elif name.endswith("-forward"):
        about_output = _forward(scripted, classic=name != "native-forward")
        if about_output is not None:
            yield from _each(scripted, about, lambda state: about_output, "got: +output")
    elif name in assertions.SIDE_EFFECTS:
        found = by_function(scripted)
        if found is not None:
            call, convert = found
            assertion = assertions.side_effect(name, convert, scripted.case.dtype, scripted.input_size)
            yield Attempt(script.text(about, scripted.code, call, assertion), _named(witness.tensor))
    else:
        for deviation in scripted.created_deviations() if name == "create-model" else scripted.deviations():
            if matches(deviation, witness.kind, witness.tensor, scripted.family):
                assertion_for = (
                    partial(assertions.values, deviation, scripted.given) if deviation.kind == "value" else _loads
                )
                yield from _each(
                    scripted, about, assertion_for, _SAYS[deviation.kind].format(re.escape(deviation.tensor))
                )


# Patterns of a script's output for a wrong tensor. Those for a misfit are messages of torch's load_state_dict.
_SAYS = {
    "value": "got: +(?:other numbers|{})",
    "shape": "size mismatch for {}",
    "missing": r'Missing key\(s\).*"{}"',
    "unexpected": r'Unexpected key\(s\).*"{}"',
}


def _raised(witness: WitnessFile, scripted: ScriptableCase, about: About) -> Iterator[Attempt]:
    """Scripts for a load or a forward pass that raises. A trial's own exception differs from a script's, so any is accepted."""
    pattern = "" if witness.tensor == "convert()" else re.escape(witness.kind.removeprefix("raises-"))
    runs = assertions.forward(scripted.image) if witness.invariant.endswith("-forward") else assertions.LOADS
    yield from _each(scripted, about, lambda state: runs, pattern)


def _refusals(witness: WitnessFile, scripted: ScriptableCase, about: About) -> Iterator[Attempt]:
    """Scripts for a damaged checkpoint that is not refused, or for a refusal that changes something."""
    if witness.invariant != "untouched-after-refusal":
        yield from _each(scripted, about, lambda state: assertions.refused(scripted.damage), "got: +a model")
        return
    found = by_function(scripted)
    call = by_load_pretrained(scripted) if found is None else found[0]
    assertion = assertions.untouched(scripted.damage, model=witness.kind == "model-written")
    yield Attempt(script.text(about, scripted.code, call, assertion), _named(witness.tensor))


def _loads(state: str) -> Assertion:
    return assertions.LOADS


def _named(tensor: str) -> str:
    """A pattern for a tensor's name in any block."""
    return re.escape(tensor).replace(r"\.\*\.", r"\.\d+\.") if tensor else ""


def _each(
    scripted: ScriptableCase, about: About, assertion_for: Callable[[str], Assertion], pattern: str
) -> Iterator[Attempt]:
    """A script for every way to load the checkpoint; ``assertion_for`` gets the code for the loaded tensors."""
    for call, state in load_calls(scripted):
        yield Attempt(script.text(about, scripted.code, call, assertion_for(state)), pattern)


# -- outputs -----------------------------------------------------------------------------------------------------------


def _forward(scripted: ScriptableCase, classic: bool) -> Assertion | None:
    """The assertion of a model's output if it differs from the upstream model's or (``classic``) from the classic model's."""
    trial = scripted.trial
    loaded, model = scripted.loaded, trial.model()
    if not loaded.ok or not fits(model, loaded.raw):
        return None
    image = assertions.image(scripted.image)
    if classic:
        other = classic_trial(trial)
        state = other.convert(scripted.given)
        want = output(other.model(), state.raw, image)
    else:
        want = trial.upstream_output(image)
    got = output(model, loaded.raw, image)
    bound = float(bounds.rounding(want, torch.float32).max()) * 8
    if not bool((got - want).abs().max() > bound):
        return None
    return assertions.output(want.flatten(), got.flatten(), scripted.image, bound)
