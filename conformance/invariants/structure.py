"""Invariants of names and shapes: they are right, in every wrapper, with any foreign tensors, and in any order of the keys."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ..families.base import KERNEL
from ..trials.expectation import GRID
from ..trials.loaded import Loaded
from ..trials.problems import Problem, exact_differences
from ..trials.trial import Trial
from .registry import invariant, unless

_RESAMPLED = ("patch-grow", "patch-shrink", "patch-mixed", "grid-grow", "grid-shrink", "grid-mixed")


@invariant(
    statement="The loaded state dict passes a strict load of the model: every tensor, in its shape, and nothing else.",
    catches="size mismatches of #2120, missing or unexpected keys, conversions that raise.",
    regimes=("native", *_RESAMPLED, "prefix-0", "prefix-1", "prefix-1+R", "half-precision", "wrapped"),
)
def strict_load(trial: Trial) -> Iterator[Problem]:
    if not trial.base.ok:
        yield trial.base.problem("loading")
        return
    model = trial.model()
    want = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = list(_misfits(trial.raw, want))
    yield from found
    if not found:
        model.load_state_dict(trial.raw, strict=True)


def _misfits(state: dict, want: dict[str, tuple[int, ...]]) -> Iterator[Problem]:
    for key, shape in want.items():
        if key not in state:
            yield Problem("missing-key", key, f"{key} is missing")
        elif tuple(state[key].shape) != shape:
            yield Problem("size-mismatch", key, f"{key} is {tuple(state[key].shape)}, the model has {shape}")
    for key in state:
        if key not in want:
            yield Problem("unexpected-key", key, f"{key} is unexpected")


@invariant(
    statement=(
        "Converting then resampling equals resampling then converting, and every geometry-dependent tensor has the "
        "model's shape: no conversion leaves the loader before the common resampling."
    ),
    catches="early returns like those of timm 0.9.x for CLIP (#2120); resampling before a conversion that undoes it.",
    regimes=_RESAMPLED,
    applies=unless(lambda t: not t.case.native, "nothing to resample at the native geometry"),
)
def no_early_return(trial: Trial) -> Iterator[Problem]:
    names = [n for n in trial.geometric if n in trial.state]
    wrong = {n for n in names if trial.state[n].shape != trial.expected[n].shape}
    for name in sorted(wrong):
        left = trial.state[name].shape == trial.truth[name].shape
        kind = "not-resampled" if left else "shape"
        yield Problem(
            kind, name, f"{name} is {tuple(trial.state[name].shape)}, the model has {tuple(trial.expected[name].shape)}"
        )
    sound = [n for n in names if n not in wrong]
    if (trial.format.windowed or trial.format.square_grid) and len(set(trial.case.destination.grid_size)) > 1:
        # timm's layout has a plain grid in place of the window, and stretches it. A square list holds no other grid.
        sound = [n for n in sound if n != GRID]
    if trial.family.square_patch == "always" and len(set(trial.case.destination.patch_size)) > 1:
        sound = [n for n in sound if n != KERNEL]  # a kernel of this patch cannot be written in the upstream layout
    if trial.format.square_windows:  # nor can a table of such a window
        sound = [n for n in sound if n not in trial.tables or len(set(trial.tables[n][1])) == 1]
    told = trial.loader.told_resampling(trial.family, trial.case.arch)
    if trial.native.ok and told and not trial.family.in_place:
        # A NaFlexViT's own kernel is linear, and does not give the height and width of a patch.
        known = [n for n in sound if n != KERNEL or n in trial.native.raw]
        in_two_steps = trial.convert(trial.to_device(trial.native.raw))
        yield from _agree(trial, known, in_two_steps, "converted-then-resampled")
    if trial.family.undecidable(replace(trial.case, source=trial.case.destination)):
        return  # no loader could read a checkpoint of this geometry
    resampled = {**trial.expected, **{n: trial.state[n].cpu() for n in sound}}
    yield from _agree(trial, sound, trial.load(resampled, source=trial.case.destination), "resampled-then-converted")


def _agree(trial: Trial, names: list[str], other: Loaded, kind: str) -> Iterator[Problem]:
    """Compare geometry-dependent tensors of two loads that must agree. The bound is doubled, since both may round."""
    for name in names:
        if other.ok and name in other.state and other.state[name].shape == trial.expected[name].shape:
            yield from trial.compare(name, trial.state[name], other.state[name], 2 * trial.bound(name), kind)


def _judge_alone(trial: Trial, one_change: dict) -> Iterator[Problem]:
    """Judge one change that must not matter. It is loaded alone only if the load with all changes differs from the base."""
    base = trial.state
    if trial.variant.ok and not exact_differences(base, trial.variant.state):
        return
    alone = trial.load_variant(**one_change)
    if not alone.ok:
        yield alone.problem("loading the variant")
    else:
        yield from exact_differences(base, alone.state)


@invariant(
    statement=(
        "A checkpoint loads the same out of every wrapper and prefix its format comes in: `model`, `state_dict`, `params/`."
    ),
    catches="wrappers not opened, or opened for some formats only.",
    regimes=("native", "resampled"),
    applies=unless(lambda t: t.other_wrapper is not None, "the format has one wrapper only"),
)
def wrapper_transparent(trial: Trial) -> Iterator[Problem]:
    other = trial.other_wrapper
    if not trial.base.ok and trial.load_variant(wrapper=other).ok:
        yield trial.base.problem(f"loading from {trial.case.wrapper}, but not from {other},")
        return
    yield from _judge_alone(trial, {"wrapper": trial.other_wrapper})


@invariant(
    statement="Tensors that are not the image encoder's (text tower, loss scale) change nothing.",
    catches="foreign keys passed on to a strict load, or mistaken for the image tower's.",
    regimes=("native", "resampled"),
    applies=unless(lambda t: bool(t.family.foreign(t.case.arch)), "the format carries no foreign tensors"),
)
def foreign_keys_ignored(trial: Trial) -> Iterator[Problem]:
    yield from _judge_alone(trial, {"foreign": True})


@invariant(
    statement="The order of the keys changes nothing.",
    catches="conversions that rely on one tensor being met before another.",
    regimes=("native", "resampled"),
)
def order_independent(trial: Trial) -> Iterator[Problem]:
    yield from _judge_alone(trial, {"shuffle": True})
