"""The invariant of the end-user path: a checkpoint file is loaded into a registered model by ``timm.create_model``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from ..cases.case import NOT_FILES
from ..families import naflex_model
from ..reference import LoadError
from ..targets.declared_size import default_size
from ..trials.acceptance import accepted
from ..trials.asked import moves_position_rows, telling, trained_tensors
from ..trials.expectation import CLASSIFIERS
from ..trials.loaded import Blocked
from ..trials.problems import Problem, raised
from ..trials.trial import Trial
from .registry import invariant


def applies_to_files(trial: Trial) -> str | None:
    """Why the invariant does not apply to a case, or None.

    On this path the model's configuration always declares an input size: the overlay's, or its own default.
    """
    case = trial.case
    if case.container == "memory":
        return "the case stays in memory: half of them are written to a file"
    if trial.loader.target.kind == "loader" and (case.in_chans is not None or case.num_classes is not None):
        return (
            "a function under test converts checkpoints; adapting a model to other channels or classes is its caller's"
        )
    if case.saved and trial.loader.target.kind == "loader":
        return "a function under test is given a state dict; opening what a training script saved is its caller's"
    if trial.family.in_place and not trial.loader.reads_npz_files:
        return "the release reads a .npz file from a URL only"
    if case.wrapper.startswith("img/"):
        return "the prefix img/ has to be named, which create_model cannot"
    if not trial.loader.knows_model(case.model_name):
        return f"the release has no model {case.model_name}"
    declared = "true" if case.declared == "true" else "default"
    return trial.family.undecidable_grid(replace(case, declared=declared), default_size(case))


def as_saved(trial: Trial) -> str | None:
    """Why ``create_model`` cannot be asked for the model that was saved, or None where it can."""
    case = trial.case
    if case.asked:
        return "the model has other options than the checkpoint: trained-tensors-used judges that"
    if not trial.loader.reads_saved(trial.family, case):
        return "the release does not read what the training script saved: trained-tensors-used judges that"
    return applies_to_files(trial)


# Regimes in which timm's factory changes what the loader returned.
_ADAPTED = ("in-chans-1", "in-chans-4", "classes-0", "classes-other")
# Regimes of files that a training script saved.
_SAVED = ("saved-ema", "saved-prefixed")

# The lines of torch's load_state_dict report (torch/nn/modules/module.py).
_MISMATCH = re.compile(r"size mismatch for ([\w.]+): (.*)")
_KEYS = re.compile(r"(Missing|Unexpected) key\(s\) in state_dict: (.*)")


def _refused(error: Exception) -> Iterator[Problem]:
    """Problems of a strict load's error, one for each tensor; any other exception is one problem."""
    text = str(error)
    found = [Problem("size-mismatch", key, f"size mismatch for {key}: {what}") for key, what in _MISMATCH.findall(text)]
    for which, keys in _KEYS.findall(text):
        kind = f"{which.lower()}-key"
        found += [Problem(kind, key, f"{key} is {which.lower()}") for key in re.findall(r'"([^"]+)"', keys)]
    yield from found or [raised(error, "create_model")]


@invariant(
    statement=(
        "`create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=...), patch_size=..., img_size=...)` on a "
        ".safetensors, .pth or .npz file ends with the reference's tensors in the model, its first convolution adapted to "
        "`in_chans`, its classifier the model's own where `num_classes` differs. Of a file that a training script saved in an "
        "entry or behind a prefix, it is the tensors of the entry that timm chooses."
    ),
    catches="#2120 as a user meets it, and anything the file reader or model factory does around the conversion.",
    regimes=(
        "safetensors",
        "pth",
        "native",
        "patch-grow",
        "patch-shrink",
        "grid-grow",
        "grid-shrink",
        *_ADAPTED,
        *_SAVED,
    ),
    applies=as_saved,
    not_on_functions=(*_ADAPTED, *_SAVED),
)
def create_model(trial: Trial) -> Iterator[Problem]:
    yield from wrongly_created(trial)


def wrongly_created(trial: Trial) -> Iterator[Problem]:
    """Problems of the model that ``create_model`` makes of the case's file."""
    case = trial.case
    model = trial.created_model.outcome
    if isinstance(model, Exception):
        yield from _refused(model)
        return
    got = trial.family.canonical(case, dict(model.state_dict()))
    yield from trial.compare_all(got, trial.created, trial.created_bound)
    if case.num_classes is not None:
        yield from _classifier(got, case.num_classes)


def _classifier(state: dict[str, Tensor], num_classes: int) -> Iterator[Problem]:
    """Problems of a classifier with other classes than the checkpoint's: it must exist, have these classes, and be finite."""
    own = {k: v for k, v in state.items() if k.startswith(CLASSIFIERS)}
    if num_classes and not own:
        yield Problem("classes", "head.weight", f"the model has no classifier, {num_classes} classes were asked for")
    for name, tensor in own.items():
        if len(tensor) != num_classes:
            yield Problem("classes", name, f"{name} has {len(tensor)} classes, {num_classes} were asked for")
        elif not bool(torch.isfinite(tensor).all()):
            yield Problem("not-finite", name, f"the new {name} holds NaN or Inf")


# The final norm before the pool and after it: a loader may put the one's values into the other.
_MOVED = {"norm": "fc_norm", "fc_norm": "norm"}


def _asks_for_another(trial: Trial) -> str | None:
    case = trial.case
    as_saved = not case.asked and case.num_classes in (None, case.arch["num_classes"])
    if as_saved and trial.loader.reads_saved(trial.family, case):
        return "the model has the checkpoint's options and classes: create-model judges that"
    if case.arch.get("in_chans", 3) != 3 and case.declared != "true":
        return "the declaration gives another number of channels: create-model judges that"
    if moves_position_rows(case) and case.declared != "true":
        return "without the input size, nothing tells rows of prefix tokens from the grid's"
    return applies_to_files(trial)


@invariant(
    statement=(
        "A model that `create_model` returns with other options or classes than the checkpoint's, or of a file that the release "
        "does not read as it was saved, holds every trained tensor of the image tower, resampled; a classifier of other classes "
        "aside. Otherwise the load is refused, and says what does not fit."
    ),
    catches="tensors dropped by a load that is not strict, or read as something else because the model has other tokens.",
    regimes=("safetensors", "pth", "native", "resampled", "classes-0", "classes-other", "asked"),
    applies=_asks_for_another,
    not_on_functions=("classes-0", "classes-other"),
    unread=True,
)
def trained_tensors_used(trial: Trial) -> Iterator[Problem]:
    read = trial.loader.reads_saved(trial.family, trial.case)
    created = trial.created_model if read or trial.case.door not in NOT_FILES else trial.by_door
    if isinstance(created.outcome, Exception):
        if not read:
            return
        if not (trial.family.unread or accepted(trial, trial.base)):
            raise Blocked("the model of the checkpoint's own options refuses it as well")
        if not _says_what(created.outcome, trial):
            yield raised(created.outcome, "create_model")
        return
    canonical = naflex_model.canonical if trial.case.asks_for_naflex else trial.family.canonical
    got = canonical(trial.case, dict(created.outcome.state_dict()))
    warned = "\n".join(created.warned)
    found = list(_unused(trial, got, warned))
    wanted = trained_tensors(trial)
    told = telling({name: want for name, (want, _) in wanted.items()})
    if told <= {name for name, _ in found} and 2 * len(found) >= len(wanted):
        kind, how = ("nothing-used", "as a warning says") if warned else ("nothing-used-silently", "without a warning")
        yield Problem(kind, "", f"none of the checkpoint's {len(wanted)} trained tensors is in the model, {how}")
        return
    alone = {k: v for k, v in wanted.items() if not trial.base.ok or not _same_as_alone(trial, k)}
    yield from (problem for name, problem in found if problem.kind != "value" or name not in alone)


def _unused(trial: Trial, got: Mapping[str, Tensor], warned: str) -> Iterator[tuple[str, Problem]]:
    """For each trained tensor that is not in the model as it should be: its name and the problem."""
    for name, (want, bound) in trained_tensors(trial).items():
        part, _, rest = name.partition(".")
        moved = got.get(f"{_MOVED.get(part, part)}.{rest}")
        if name in got:
            problems = trial.compare(name, _where_known(got[name].cpu(), want), _where_known(want, want), bound)
            yield from ((name, problem) for problem in problems)
        elif moved is None or trial.compare(name, moved, want, bound):
            told = name.removeprefix("patch_embed.") in warned  # a NaFlexViT has another prefix
            kind, how = ("dropped", "as a warning says") if told else ("dropped-silently", "without a warning")
            yield name, Problem(kind, name, f"the checkpoint's {name} is not in the model, {how}")


def _same_as_alone(trial: Trial, name: str) -> bool:
    """Whether a model of the checkpoint's own options gets the right tensor; otherwise other invariants report it."""
    got, want = trial.base.state.get(name), trial.expected.get(name)
    return got is not None and want is not None and not trial.compare(name, got, want, trial.bound(name))


def _where_known(tensor: Tensor, want: Tensor) -> Tensor:
    """``tensor`` with zeros where ``want`` is NaN, which stands for any value."""
    return tensor.where(~want.isnan(), 0.0) if tensor.shape == want.shape else tensor


def _says_what(error: Exception, trial: Trial) -> bool:
    """Whether a refusal names a tensor, as torch's strict load and the reference do, or an option that was asked for."""
    known = {*trial.created, *trial.upstream, *trial.case.asked, "Error(s) in loading state_dict"}
    return isinstance(error, (LoadError, KeyError)) or any(name in str(error) for name in known)


@invariant(
    statement=(
        "A model that `create_model` or another door returns is in the default dtype, whatever the file's, and on the default "
        "device, and each of its parameters takes gradients."
    ),
    catches="parameters replaced by the checkpoint's tensors, left frozen, or made anew in another dtype.",
    regimes=("native", "resampled", "half-precision"),
    applies=as_saved,
    timm_alone=True,
)
def model_kept_as_built(trial: Trial) -> Iterator[Problem]:
    outcomes = [("create_model", trial.created_model.outcome)]
    if trial.case.door:
        outcomes.append((f"the door {trial.case.door}", trial.by_door.outcome))
    models = [(how, model) for how, model in outcomes if not isinstance(model, Exception)]
    if not models:
        raise Blocked("create_model does not load the file")
    for how, model in models:
        yield from _not_as_built(model, torch.float32, trial.loader.device, how)


def _not_as_built(model: nn.Module, dtype: torch.dtype, device: str, how: str) -> Iterator[Problem]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != dtype:
            yield Problem("dtype", name, f"{name} is {tensor.dtype}, should be {dtype}, by {how}")
        if tensor.device.type != torch.device(device).type:
            yield Problem("device", name, f"{name} is on {tensor.device}, should be on {device}, by {how}")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            yield Problem("frozen", name, f"{name} takes no gradient, by {how}")
