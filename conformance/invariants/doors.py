"""The invariant of timm's doors: the same file gives the same model by every way that timm offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from ..cases.case import VARIED
from ..targets.doors import DOORS, Visit
from ..trials.asked import telling
from ..trials.problems import Problem, raised
from ..trials.trial import Trial
from .end_to_end import as_saved
from .equivalence import TO_COLUMN, TOKENS, output, resized_output
from .registry import few_blocks, invariant


def _applies(trial: Trial) -> str | None:
    if not trial.case.door:
        return "the case goes through create_model alone"
    if DOORS[trial.case.door].fed is not None and (reason := _no_output(trial)):
        return reason
    return as_saved(trial)


def _no_output(trial: Trial) -> str | None:
    """Why outputs of the case at its destination cannot be compared, or None."""
    case = trial.case
    if case.contents.kind not in VARIED or max(case.source.tokens, case.destination.tokens) > TOKENS:
        return f"needs tokens that vary (LayerNorm divides by their variance), and no more than {TOKENS} of them"
    if TO_COLUMN & trial.regimes:
        return "torch's antialiased resize to one column may be wrong, which other invariants and a probe say"
    if case.in_chans is not None or case.other_classes:
        return "the model has other channels or classes than the checkpoint: its output is its own"
    return few_blocks(trial)


@invariant(
    statement=(
        "The same file, model and geometry give the same tensors by every door of timm: `create_model` with a file, a dict, "
        "`checkpoint_path=` or a folder, `load_checkpoint`, `set_input_size` of a loaded model. A model that resizes in its "
        "forward gives the same output. A door refuses what `create_model` takes only where timm promises less of it."
    ),
    catches="a size read from one door's configuration only, a conversion that one door leaves out, another resampling.",
    regimes=tuple(f"door-{name}" for name in DOORS),
    applies=_applies,
    timm_alone=True,
)
def doors_agree(trial: Trial) -> Iterator[Problem]:
    model, door = trial.by_door.outcome, DOORS[trial.case.door]
    if isinstance(model, Exception):
        taken = not isinstance(trial.created_model.outcome, Exception)
        if taken and not door.may_refuse(Visit(trial.loader, trial.family, trial.case)):
            yield raised(model, f"the door {door.name}")
        return
    if door.fed is not None:
        yield from _outputs(trial, model)
        return
    got, by_file = _state(trial, model), _state(trial, trial.created_model.outcome)
    found = [p for name in trial.created for p in _differences(trial, name, got.get(name), by_file.get(name))]
    wrong = {
        n for n, want in trial.created.items() if n not in got or trial.compare(n, got[n], want, trial.created_bound(n))
    }
    if found and telling(trial.created) <= wrong:
        yield Problem("nothing-used", "", f"none of the checkpoint's {len(trial.created)} tensors is in the model")
    else:
        yield from found


def _differences(trial: Trial, name: str, got: Tensor | None, by_file: Tensor | None) -> Iterator[Problem]:
    """Problems of a tensor that is neither the one that ``create_model`` reads from the file nor the right one."""
    if got is None:
        yield Problem("missing-key", name, f"{name} is missing")
    elif by_file is None or not _equal(got, by_file):
        yield from trial.compare(name, got, trial.created[name], trial.created_bound(name))


def _state(trial: Trial, outcome: nn.Module | Exception) -> dict[str, Tensor]:
    """The tensors of a model in VisionTransformer's names and layout; none of a refused load."""
    if isinstance(outcome, Exception):
        return {}
    return trial.family.canonical(trial.case, dict(outcome.state_dict()))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _outputs(trial: Trial, model: Any) -> Iterator[Problem]:
    """Problems of the output of a model that resizes in its forward. Its right output is upstream's from resampled tensors."""
    case, family, door = trial.case, trial.family, DOORS[trial.case.door]
    there = Trial(family, replace(case, source=case.destination), trial.loader, trial.device)
    there.truth = trial.expected
    generator = torch.Generator().manual_seed(case.contents.seed)
    size = (2, case.arch.get("in_chans", 3), *family.img_size(case.arch, case.destination))
    image = torch.randn(size, generator=generator, dtype=torch.float64)
    image[..., -1, :] = image[..., -1] = 0  # what a model that pads adds
    exact, bound = resized_output(there, image, {k: trial.bound(k) for k in trial.geometric})
    fed = door.fed(Visit(trial.loader, family, case), image) if door.fed else image
    try:
        got = output(model.eval(), model.state_dict(), fed)
    except Exception as error:
        yield raised(error, "the forward of the loaded model")
        return
    found = list(trial.compare("output", got, exact, bound, "output"))
    created = trial.created_model.outcome
    if found and not isinstance(created, Exception):
        by_file = output(created.eval(), created.state_dict(), image)
        found = list(trial.compare("output", got, by_file, bound, "output"))
    yield from found
