"""From a stored failure to a script that shows it on the target of this process.

Every attempt is a whole script. It is run here, in the worker, and kept when it says that the bug is there and names what the
failure names; a run in a fresh interpreter follows (:mod:`timm_conformance.repro.execution`).
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
from ..invariants.equivalence import fits, output
from ..invariants.naflex import classic_trial
from ..ledger.witnesses import WitnessFile
from ..targets.loader import Loader, Unsupported
from ..trials import bounds
from ..trials.trial import Trial
from . import assertions, script
from .assertions import Look
from .entry_points import calls, direct, in_place
from .script import About
from .scriptable_case import Circumstances, Redrawn, matches
from .substitute import can_mend, mended


@dataclass(frozen=True)
class Attempt:
    """A script, and what its output must say for it to show what it is meant to."""

    text: str
    says: str


def first_shown(witness: WitnessFile, loader: Loader, about: About) -> Attempt | None:
    """The first script that shows a witness's failure here; None where no plain checkpoint does."""
    return next((a for a in _attempts(witness, loader, about) if shows(a, witness, loader)), None)


def shows(attempt: Attempt, witness: WitnessFile, loader: Loader) -> bool:
    """Whether a script, run in this process, finds its bug, names it, and finds none in a loader without it."""
    code, said = run_here(attempt.text)
    if code != 1 or not re.search(attempt.says, said):
        return False
    family = FAMILIES[witness.case.family]
    if not can_mend(family, loader):
        return True
    with mended(family, witness.case.arch, loader):
        code, said = run_here(attempt.text)
    # What is wrong with a model, or with the factory that adapts it, is wrong in the same way whoever converts.
    elsewhere = witness.invariant == "create-model" or witness.invariant.endswith("-forward")
    return code == 0 or (elsewhere and re.search(attempt.says, said) is not None)


def run_here(text: str) -> tuple[int, str]:
    """Exit code and output of a script run in this process, with the timm it has."""
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
        # Not every circumstance has a model in every release, or a source grid that its checkpoint alone decides.
        with contextlib.suppress(Unsupported, reference.LoadError, LookupError):
            yield from _scripts(witness, Redrawn(circumstances, loader), about)


def _circumstances(witness: WitnessFile, loader: Loader) -> Iterator[Circumstances]:
    """The case of a witness, and those that its invariant makes of it: one of them shows what is wrong by itself."""
    case, name = witness.case, witness.invariant
    damaged = INVARIANTS[name].theme == "rejection"
    plainest = Circumstances(case, damaged=witness.tensor if damaged else None)
    bare = {k: 0 for k in ("depth", "stages") if case.arch.get(k)}
    if bare:  # most of what goes wrong is outside the blocks, and they make a checkpoint long
        yield dataclasses.replace(plainest, case=replace(case, arch=case.arch | bare))
    if name == "foreign-keys-ignored":
        yield Circumstances(case, foreign=True)
    if name == "order-independent":
        yield Circumstances(case, shuffled=True)
    if name == "wrapper-transparent" and (other := Trial(FAMILIES[case.family], case, loader).other_wrapper):
        yield Circumstances(replace(case, wrapper=other))
    if name == "create-model" and case.container == "safetensors":
        plainest = Circumstances(replace(case, wrapper="bare"))
    yield plainest
    if not damaged:
        yield Circumstances(replace(case, source=case.source.transposed(), destination=case.destination.transposed()))
        yield Circumstances(replace(case, source=case.destination))
        yield Circumstances(replace(case, destination=case.source))


def _scripts(witness: WitnessFile, redrawn: Redrawn, about: About) -> Iterator[Attempt]:
    """Scripts of a failure under some circumstances, by what kind of promise it breaks."""
    name = witness.invariant
    if INVARIANTS[name].theme == "rejection":
        yield from _refusals(witness, redrawn, about)
    elif witness.kind.startswith("raises-"):
        yield from _raised(witness, redrawn, about)
    elif name.endswith("-forward"):
        look = _forward(redrawn, classic=name != "native-forward")
        if look is not None:
            yield from _each(redrawn, about, lambda state: look, "got: +output")
    elif name in assertions.MANNERS:
        found = direct(redrawn)
        if found is not None:
            call, convert = found
            look = assertions.manners(name, convert, redrawn.case.dtype, redrawn.input_size)
            yield Attempt(script.text(about, redrawn.code, call, look), _named(witness.tensor))
    else:
        for deviation in redrawn.created_deviations() if name == "create-model" else redrawn.deviations():
            if matches(deviation, witness.kind, witness.tensor, redrawn.family):
                look_at = partial(assertions.values, deviation, redrawn.given) if deviation.kind == "value" else _loads
                yield from _each(redrawn, about, look_at, _SAYS[deviation.kind].format(re.escape(deviation.tensor)))


# What is printed where a tensor is not what it should be; where it does not fit, in the words of torch's load_state_dict.
_SAYS = {
    "value": "got: +(?:other numbers|{})",
    "shape": "size mismatch for {}",
    "missing": r'Missing key\(s\).*"{}"',
    "unexpected": r'Unexpected key\(s\).*"{}"',
}


def _raised(witness: WitnessFile, redrawn: Redrawn, about: About) -> Iterator[Attempt]:
    """What raises, whatever is looked at. What a trial itself finds wrong, a strict load finds wrong in its own words."""
    says = "" if witness.tensor == "convert()" else re.escape(witness.kind.removeprefix("raises-"))
    runs = assertions.forward(redrawn.image) if witness.invariant.endswith("-forward") else assertions.LOADS
    yield from _each(redrawn, about, lambda state: runs, says)


def _refusals(witness: WitnessFile, redrawn: Redrawn, about: About) -> Iterator[Attempt]:
    """That a damaged checkpoint is refused, or that the refusal leaves everything as it was."""
    if witness.invariant != "untouched-after-refusal":
        yield from _each(redrawn, about, lambda state: assertions.refused(redrawn.damage), "got: +a model")
        return
    found = direct(redrawn)
    call = in_place(redrawn) if found is None else found[0]
    look = assertions.untouched(redrawn.damage, model=witness.kind == "model-written")
    yield Attempt(script.text(about, redrawn.code, call, look), _named(witness.tensor))


def _loads(state: str) -> Look:
    return assertions.LOADS


def _named(tensor: str) -> str:
    """A pattern for a tensor's name whatever its block."""
    return re.escape(tensor).replace(r"\.\*\.", r"\.\d+\.") if tensor else ""


def _each(redrawn: Redrawn, about: About, look: Callable[[str], Look], says: str) -> Iterator[Attempt]:
    """A script for every way to load the checkpoint; ``look`` is given the code for the loaded tensors."""
    for call, state in calls(redrawn):
        yield Attempt(script.text(about, redrawn.code, call, look(state)), says)


# -- outputs -----------------------------------------------------------------------------------------------------------


def _forward(redrawn: Redrawn, classic: bool) -> Look | None:
    """The look at a model's output, where it differs from the upstream model's, or from the classic model's."""
    trial = redrawn.trial
    loaded, model = redrawn.loaded, trial.model()
    if not loaded.ok or not fits(model, loaded.raw):
        return None
    image = assertions.image(redrawn.image)
    if classic:
        other = classic_trial(trial)
        state = other.convert(redrawn.given)
        want = output(other.model(), state.raw, image)
    else:
        want = trial.upstream_output(image)
    got = output(model, loaded.raw, image)
    bound = float(bounds.rounding(want, torch.float32).max()) * 8
    if not bool((got - want).abs().max() > bound):
        return None
    return assertions.output(want.flatten(), got.flatten(), redrawn.image, bound)
