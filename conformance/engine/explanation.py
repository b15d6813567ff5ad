"""What a failure's report says beside its message: what was asked, the numbers, and what explains them."""

from __future__ import annotations

from ..cases.case import Case
from ..invariants import Invariant
from ..results.records import Explanation
from ..targets.doors import DOORS
from ..targets.factory import sizes
from ..targets.models import Unsupported, model_kwargs
from ..trials.diagnosis import diagnose
from ..trials.excerpt import excerpt
from ..trials.problems import Problem
from ..trials.trial import Trial

# Themes of invariants that load by create_model, and of those that load by the case's door.
_BY_FACTORY = ("end_to_end", "doors", "in_place")
_BY_DOOR = ("doors", "in_place")


def explain(trial: Trial, invariant: Invariant, problem: Problem) -> Explanation:
    """The explanation of a problem that an invariant found on a trial."""
    loaded = trial.base.state if trial.base.ok else None
    found = diagnose(problem, trial, loaded)
    return Explanation(
        meaning=invariant.statement,
        file=file_in_words(trial.case),
        call=call_in_words(trial, invariant),
        numbers=excerpt(problem),
        diagnosis=f"got = {found}" if found else "",
    )


def file_in_words(case: Case) -> str:
    """The checkpoint of a case: format, dtype, geometry, how it was saved, and the architecture that it has."""
    words = [f"{case.family}, {case.dtype}", f"{case.source} ({_pixels(case.source.img_size)})"]
    if case.wrapper != "bare":
        words.append(f"under {case.wrapper}")
    if case.saved_entry:
        words.append(f"saved under {'.'.join(case.saved_entry)}")
    if case.saved_prefix:
        words.append(f"names behind {case.saved_prefix}")
    return "; ".join([*words, ", ".join(f"{k}={v}" for k, v in case.arch.items())])


def call_in_words(trial: Trial, invariant: Invariant) -> str:
    """The call that an invariant judges: the function, and what the model is that it loads into."""
    case, into = trial.case, trial.case.destination
    model = f"model of {into} ({_pixels(into.img_size)})"
    if case.door and invariant.theme in _BY_DOOR:
        return f"{DOORS[case.door].statement}; {model}{_asked(trial)}"
    if case.model_name and (invariant.theme in _BY_FACTORY or "create-model" in invariant.name):
        return f"timm.create_model({case.model_name!r}, pretrained=True, {_overlay(case)}{_options(trial)})"
    declared = {
        "true": "",
        "absent": ", which declares no input_size",
        "default": ", which declares its own input_size",
    }
    return f"{_function(trial)}(checkpoint, model); {model}{declared[case.declared]}"


def _function(trial: Trial) -> str:
    loader = trial.loader
    if loader.target.kind == "loader":
        return loader.target.value
    if loader.target.kind == "reference":
        return "reference.load_state_dict"
    convert = loader.filter_function(trial.family)
    if loader.writes_into_model(trial.family) or convert is None:
        return "timm's load_pretrained"
    return f"{convert.__module__}.{convert.__qualname__}"


def _overlay(case: Case) -> str:
    return f"pretrained_cfg_overlay=dict(file=..., num_classes={case.arch.get('num_classes')})"


def _options(trial: Trial) -> str:
    """The arguments of create_model that a case asks for beside the model's own."""
    case = trial.case
    asked = dict(case.asked)
    if case.in_chans is not None:
        asked["in_chans"] = case.in_chans
    if case.num_classes is not None:
        asked["num_classes"] = case.num_classes
    try:
        asked = {**model_kwargs(trial.family, case.model_arch, created=True), **asked}
        asked |= sizes(trial.family, case, case.destination)
    except Unsupported:
        pass
    return "".join(f", {k}={v!r}" for k, v in asked.items())


def _asked(trial: Trial) -> str:
    options = _options(trial)
    return f"; create_model has{options.lstrip(',')}" if options else ""


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"
