"""The invariant of a model that is resized in place, saved, loaded again, and resized back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from ..checkpoints import files
from ..reference import BICUBIC_ANTIALIAS
from ..targets.doors import Visit, resize
from ..targets.factory import FactoryCall, sizes
from ..targets.scratch import scratch_folder
from ..trials.loaded import Blocked
from ..trials.problems import Problem, exact_differences, raised
from ..trials.trial import Trial
from .end_to_end import as_saved
from .equivalence import TO_COLUMN, output
from .registry import few_blocks, invariant


def _applies(trial: Trial) -> str | None:
    if trial.case.door != "set-input-size":
        return "the model is not resized in place"
    return few_blocks(trial) or as_saved(trial)


@invariant(
    statement=(
        "A model that `set_input_size` resized has the buffers and computes the output of one created at that size. Its own "
        "checkpoint loads there unchanged. Resized back, it has its tensors resampled once more. A model in half precision "
        "stays in it."
    ),
    catches="rotary tables, windows, masks or sizes left as they were; a second resize that reads the sizes of the first.",
    regimes=("grid-grow", "grid-shrink", "patch-grow", "patch-shrink"),
    applies=_applies,
    timm_alone=True,
)
def resized_in_place(trial: Trial) -> Iterator[Problem]:
    resized, created = trial.by_door.outcome, trial.created_model.outcome
    if isinstance(resized, Exception) or isinstance(created, Exception):
        raise Blocked("the model is not loaded, or not resized")
    yield from exact_differences(_buffers(created), _buffers(resized))
    yield from _same_output(trial, created, resized)
    yield from _loaded_again(trial, resized)
    yield from _resized_back(trial, resized)
    yield from _resized_in_half(trial)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that no state dict holds: rotary tables, indices of relative positions, attention masks."""
    stored = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name not in stored}


def _same_output(trial: Trial, created: nn.Module, resized: nn.Module) -> Iterator[Problem]:
    """Problems of the resized model's output on an image, with the created model's tensors in both."""
    state = created.state_dict()
    channels = trial.case.in_chans or trial.case.arch.get("in_chans", 3)
    generator = torch.Generator().manual_seed(trial.case.contents.seed)
    size = (1, channels, *trial.family.img_size(trial.case.arch, trial.case.destination))
    image = torch.randn(size, generator=generator, dtype=torch.float64)
    try:
        want = output(created.eval(), state, image)
    except Exception as error:
        raise Blocked("the created model's own forward raises") from error
    if not want.isfinite().all():  # a Swin v2 divides by the side less one of a window, which may be 0
        raise Blocked("the created model itself computes no number")
    try:
        got = output(resized.eval(), state, image)
    except Exception as error:
        yield raised(error, "the forward of the resized model")
        return
    yield from trial.compare("output", got, want, 0.0, "output")


def _loaded_again(trial: Trial, resized: nn.Module) -> Iterator[Problem]:
    """Problems of the resized model's own checkpoint in a model created at its size."""
    case, family = trial.case, trial.family
    channels = case.in_chans or case.arch.get("in_chans", 3)
    if channels != 3:  # releases before 1.0.31 take every checkpoint's channels for three, which create-model judges
        return
    saved = {k: v.cpu().clone() for k, v in resized.state_dict().items()}
    with scratch_folder() as folder:
        path = files.write(saved, "bare", "safetensors", Path(folder))
        call: FactoryCall = Visit(trial.loader, family, case, path).call
        classes = case.arch["num_classes"] if case.num_classes is None else case.num_classes
        call = call.with_overlay(
            custom_load=False,
            num_classes=classes,
            input_size=(channels, *family.img_size(case.arch, case.destination)),
        )
        try:
            again = call.loaded()
        except Exception as error:
            yield raised(error, "create_model, given the resized model's own checkpoint,")
            return
    yield from exact_differences(saved, dict(again.state_dict()))


def _resized_back(trial: Trial, resized: Any) -> Iterator[Problem]:
    """Problems of the model's tensors after it was resized to the checkpoint's own geometry again."""
    case, family = trial.case, trial.family
    back = Trial(family, replace(case, source=case.destination, destination=case.source), trial.loader, trial.device)
    if TO_COLUMN & back.regimes:
        return
    back.resampling = BICUBIC_ANTIALIAS
    back.truth = {k: v.cpu().clone() for k, v in family.canonical(case, dict(resized.state_dict())).items()}
    try:
        resize(resized, Visit(trial.loader, family, case), case.destination, case.source)
    except Exception as error:
        yield raised(error, "set_input_size, called again,")
        return
    got = family.canonical(back.case, dict(resized.state_dict()))
    yield from back.compare_all(got, back.expected, back.bound)


def _resized_in_half(trial: Trial) -> Iterator[Problem]:
    """Problems of the dtypes of a bfloat16 model, without weights, after it was resized."""
    visit = Visit(trial.loader, trial.family, trial.case)
    call = visit.call.with_kwargs(**sizes(trial.family, trial.case, trial.case.source))
    model = call.empty().to(torch.bfloat16)
    try:
        resize(model, visit, trial.case.source, trial.case.destination)
    except Exception as error:
        yield raised(error, "set_input_size of a bfloat16 model")
        return
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.bfloat16:
            yield Problem("dtype", name, f"{name} is {parameter.dtype} after set_input_size of a bfloat16 model")
