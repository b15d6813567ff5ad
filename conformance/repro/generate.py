"""From a stored failure to a script that shows it on the target of this process.

Every attempt is a whole script. It is run here, in the worker, and kept when it says that the bug is there and names what the
failure names; a run in a fresh interpreter follows (:mod:`conformance.repro.executing`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from msgspec.structs import replace

import reference

from .. import bounds
from ..families import FAMILIES
from ..invariants.equivalence import fits, output
from ..invariants.naflex import classic_trial
from ..ledger import WitnessFile
from ..loaders import Loader, Unsupported
from ..trial import Trial
from . import looks, plain, script
from .looks import Look
from .redrawn import Circumstances, Redrawn, matches
from .script import About, Call


@dataclass(frozen=True)
class Attempt:
    """A script, and what its output must say for it to show what it is meant to."""

    text: str
    says: str


def first_shown(witness: WitnessFile, loader: Loader, about: About) -> Attempt | None:
    """The first script that shows a witness's failure here; None where no plain checkpoint does."""
    return next(filter(shows, _attempts(witness, loader, about)), None)


def shows(attempt: Attempt) -> bool:
    """Whether a script, run in this process, finds its bug and names it."""
    code, said = run_here(attempt.text)
    return code == 1 and re.search(attempt.says, said) is not None


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
        key = (circumstances.case.to_json(), circumstances.foreign, circumstances.shuffled)
        if key in seen:
            continue
        seen.add(key)
        # Not every circumstance has a model in every release, or a source grid that its checkpoint alone decides.
        with contextlib.suppress(Unsupported, reference.LoadError):
            yield from _scripts(witness, Redrawn(circumstances, loader), about)


def _circumstances(witness: WitnessFile, loader: Loader) -> Iterator[Circumstances]:
    """The case of a witness, and those that its invariant makes of it: one of them shows what is wrong by itself."""
    case, name = witness.case, witness.invariant
    trial = Trial(FAMILIES[case.family], case, loader)
    plainest = Circumstances(case)
    bare = {k: 0 for k in ("depth", "stages") if case.arch.get(k)}
    if bare:  # most of what goes wrong is outside the blocks, and they make a checkpoint long
        yield Circumstances(replace(case, arch=case.arch | bare))
    if name == "foreign-keys-ignored":
        yield Circumstances(case, foreign=True)
    if name == "order-independent":
        yield Circumstances(case, shuffled=True)
    if name == "wrapper-transparent" and trial.other_wrapper:
        yield Circumstances(replace(case, wrapper=trial.other_wrapper))
    if name == "create-model" and case.container == "safetensors":
        plainest = Circumstances(replace(case, wrapper="bare"))
    yield plainest
    yield Circumstances(replace(case, source=case.source.transposed(), destination=case.destination.transposed()))
    yield Circumstances(replace(case, source=case.destination))
    yield Circumstances(replace(case, destination=case.source))


def _scripts(witness: WitnessFile, redrawn: Redrawn, about: About) -> Iterator[Attempt]:
    name, case = witness.invariant, redrawn.case
    if name in ("native-forward", "naflex-classic-forward") and not witness.kind.startswith("raises-"):
        look = _forward(redrawn, classic=name != "native-forward")
        if look is not None:
            yield from _calls(redrawn, about, lambda state: look, "output")
        return
    direct = _direct(redrawn)
    if direct is not None:
        call, convert = direct
        destination = (case.arch.get("in_chans", 3), *redrawn.family.img_size(case.arch, case.destination))
        look = looks.manners(name, convert, case.dtype, destination)
        if look is not None:
            yield Attempt(_text(about, redrawn, call, look), _named(witness.tensor))
            return
    if witness.kind.startswith("raises-"):
        # What a trial itself finds wrong with the result, a strict load finds wrong in its own words.
        raised = "" if witness.tensor == "convert()" else re.escape(witness.kind.removeprefix("raises-"))
        shape = (1, case.arch.get("in_chans", 3), *redrawn.family.img_size(case.arch, case.source))
        runs = looks.forward(shape) if name.endswith("-forward") else looks.LOADS
        yield from _calls(redrawn, about, lambda state: runs, raised)
        return
    for deviation in redrawn.created_deviations() if name == "create-model" else redrawn.deviations():
        if matches(deviation, witness.kind, witness.tensor, redrawn.family):
            look_at = partial(looks.values, deviation, redrawn.given) if deviation.kind == "value" else _loads
            yield from _calls(redrawn, about, look_at, re.escape(deviation.tensor))


def _loads(state: str) -> Look:
    return looks.LOADS


def _named(tensor: str) -> str:
    """A pattern for a tensor's name whatever its block."""
    return re.escape(tensor).replace(r"\.\*\.", r"\.\d+\.") if tensor else ""


def _calls(redrawn: Redrawn, about: About, look: Callable[[str], Look], says: str) -> Iterator[Attempt]:
    """Scripts that load by ``create_model``, from memory and from a file, and by the loader's function alone."""
    for call in (_created(redrawn, None), _created(redrawn, redrawn.file)):
        if call is not None:
            yield Attempt(_text(about, redrawn, call, look("model.state_dict()")), says)
    direct = _direct(redrawn)
    if direct is not None:
        call, _ = direct
        loaded = dataclasses.replace(call, load=[*call.load, "model.load_state_dict(state)"])
        yield Attempt(_text(about, redrawn, loaded, look("model.state_dict()")), says)
        yield Attempt(_text(about, redrawn, call, look("state")), says)
    elif redrawn.family.in_place:
        call = _in_place(redrawn)
        yield Attempt(_text(about, redrawn, call, look("model.state_dict()")), says)


def _text(about: About, redrawn: Redrawn, call: Call, look: Look) -> str:
    return script.text(about, redrawn.code, call, look)


# -- how a checkpoint is loaded ----------------------------------------------------------------------------------------


def _options(redrawn: Redrawn, created: bool) -> dict[str, Any]:
    """Constructor arguments of the case that the target knows, as the family gives them."""
    family, arch = redrawn.family, redrawn.case.arch
    known = redrawn.loader.model_kwargs(family, arch, created)
    given = ((created and family.created_kwargs) or family.model_kwargs)(arch)
    return {k: given[k] for k in known}


def _created(redrawn: Redrawn, file: str | None) -> Call | None:
    """A load by ``create_model``, where a user can tell it what the case says."""
    case, family, loader = redrawn.case, redrawn.family, redrawn.loader
    if not loader.target.is_timm or not case.model_name or case.declared == "absent":
        return None
    if (family.in_place and file is None) or not loader.knows_model(case.model_name):
        return None
    import timm

    arch = case.arch
    given = script.geometry(family, arch, case.destination)
    if case.in_chans is not None or "in_chans" in arch:
        given["in_chans"] = str(case.in_chans or arch["in_chans"])
    overlay: dict[str, Any] = {"custom_load": True} if family.in_place else {}
    if case.declared == "true":
        overlay["input_size"] = (arch.get("in_chans", 3), *family.img_size(arch, case.source))
    overlay["num_classes"] = arch["num_classes"]

    def build(options: dict[str, Any]) -> torch.nn.Module:
        resolved = {k: v for k, v in loader.model_kwargs(family, arch, True).items() if k in options}
        size = {"img_size": family.img_size(arch, case.destination), "patch_size": case.destination.patch_size}
        plain_overlay = {k: v for k, v in overlay.items() if k != "custom_load"}
        return timm.create_model(case.model_name, pretrained_cfg_overlay=plain_overlay, **size, **resolved)

    try:
        options = plain.fewest(build, _options(redrawn, created=True))
        if case.num_classes is not None:
            options["num_classes"] = case.num_classes
        write = script.writing(file, case.dtype) if file else []
        return script.created(case.model_name, options, overlay, given, write)
    except (Unsupported, TypeError):
        return None


def _direct(redrawn: Redrawn) -> tuple[Call, Callable[[str], str]] | None:
    """A load by the loader's function alone, and the code that converts what an expression names."""
    family, loader, arch = redrawn.family, redrawn.loader, redrawn.case.arch
    if family.in_place:
        return None
    names, call = _model(redrawn)
    kind = loader.target.kind
    if kind == "reference":
        function, options = names.imported("reference", "load_state_dict"), {}
    elif kind == "loader":
        function = names.imported(*loader.target.value.split(":"))
        options = loader.filter_options(family, arch)
    else:
        found = loader.filter_function(family)
        if found is None:
            return call, lambda expression: expression
        function, options = names.imported(found.__module__, found.__name__), loader.filter_options(family, arch)
    keywords = "".join(f", {k}={names.value(v)}" for k, v in options.items())

    def convert(expression: str) -> str:
        return f"{function}({expression}, model{keywords})"

    load = [f"state = {convert('checkpoint')}"]
    return Call([*names.imports], call.prepare, load, names.functions), convert


def _in_place(redrawn: Redrawn) -> Call:
    """A load of a ``.npz`` file straight into a model's parameters."""
    _, call = _model(redrawn)
    prefix = ', prefix="img/"' if "img/embedding/kernel" in redrawn.given else ""
    lines = [*script.writing("npz", redrawn.case.dtype), f"model.load_pretrained(path{prefix})"]
    return Call([*call.imports, *script.FILE_IMPORTS], call.prepare, script.in_file(lines), call.functions)


def _model(redrawn: Redrawn) -> tuple[plain.Names, Call]:
    """The destination model, built by its class."""
    family, case, loader = redrawn.family, redrawn.case, redrawn.loader
    arch, names = case.arch, plain.Names()

    def build(options: dict[str, Any]) -> torch.nn.Module:
        resolved = {k: v for k, v in loader.model_kwargs(family, arch).items() if k in options}
        size = {"img_size": family.img_size(arch, case.destination), "patch_size": case.destination.patch_size}
        return loader.model_class(family)(**size, **resolved)

    options = plain.fewest(build, _options(redrawn, created=False))
    built = names.imported(f"timm.models.{family.module}", family.model_class)
    sizes = ", ".join(f"{k}={v}" for k, v in script.geometry(family, arch, case.destination).items())
    prepare = [*names.options(options), f"model = {built}({sizes}, **options)"]
    model = redrawn.trial.model()
    if hasattr(model, "pretrained_cfg"):
        prepare.append(f'model.pretrained_cfg = {{"input_size": {model.pretrained_cfg["input_size"]}}}')
    return names, Call([*names.imports], prepare, ["state = checkpoint"], names.functions)


# -- outputs -----------------------------------------------------------------------------------------------------------


def _forward(redrawn: Redrawn, classic: bool) -> Look | None:
    """The look at a model's output, where it differs from the upstream model's, or from the classic model's."""
    trial, case = redrawn.trial, redrawn.case
    loaded, model = redrawn.loaded, trial.model()
    if not loaded.ok or not fits(model, loaded.raw):
        return None
    shape = (1, case.arch.get("in_chans", 3), *redrawn.family.img_size(case.arch, case.source))
    image = looks.image(shape)
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
    return looks.output(want.flatten(), got.flatten(), shape, bound)
