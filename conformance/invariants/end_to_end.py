"""The invariant of the end-user path: a checkpoint file is loaded into a registered model by ``timm.create_model``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from ..checkpoints import files, state_dicts
from ..targets.declared_size import default_size
from ..targets.models import Unsupported
from ..targets.scratch import scratch_folder
from ..trials.expectation import CLASSIFIERS
from ..trials.problems import Problem, raised
from ..trials.trial import Trial
from .registry import invariant


def _applies(trial: Trial) -> str | None:
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
    if trial.family.in_place and not trial.loader.reads_npz_files:
        return "the release reads a .npz file from a URL only"
    if case.wrapper.startswith("img/"):
        return "the prefix img/ has to be named, which create_model cannot"
    if not trial.loader.knows_model(case.model_name):
        return f"the release has no model {case.model_name}"
    declared = "true" if case.declared == "true" else "default"
    return trial.family.undecidable_grid(replace(case, declared=declared), default_size(case))


# Regimes in which timm's factory changes what the loader returned.
_ADAPTED = ("in-chans-1", "in-chans-4", "classes-0", "classes-other")

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
        "`in_chans`, its classifier the model's own where `num_classes` differs."
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
    ),
    applies=_applies,
    not_on_functions=_ADAPTED,
)
def create_model(trial: Trial) -> Iterator[Problem]:
    case = trial.case
    with scratch_folder() as folder:
        upstream = {**trial.upstream, **state_dicts.foreign(trial.family, case)}
        state = {k: v.to(trial.device) for k, v in upstream.items()}  # a .pth file saved from a GPU stores its device
        path = files.write(state, case.wrapper, case.container, Path(folder))
        try:
            model = trial.loader.create_model(trial.family, case, path)
        except Unsupported:
            raise
        except Exception as error:
            yield from _refused(error)
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
