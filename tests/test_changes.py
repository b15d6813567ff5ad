"""Value changes: what two releases made of the same cases, told apart without the tensors themselves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.test_engine import drawn
from timm_conformance.drawing.strategies import STRATA
from timm_conformance.families import FAMILIES
from timm_conformance.results import changes
from timm_conformance.results.changes import between, differences
from timm_conformance.results.records import Header, LoadedCase, Loads, Results
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.deviations import DIRECTIONS, _projected, case_id, loaded_case
from timm_conformance.trials.loaded import Loaded
from timm_conformance.trials.trial import Trial


def loaded(**deviations):
    """What a loader made of the one case there is."""
    return LoadedCase("case", deviations=deviations)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (loaded(), loaded(), {}),
        (loaded(a="is missing"), loaded(a="is missing"), {}),
        (loaded(a="is missing"), loaded(), {"a": None}),
        (loaded(a="is 2x3"), loaded(a=[9.0] * 4), {"a": None}),
        (loaded(a=[3.0, -3.0, 3.0, 2.0]), loaded(), {}),
        (loaded(a=[30.0, -30.0, 30.0, 30.0]), loaded(), {"a": 30.0}),
        (loaded(a=[1e6, 5.0, 5.0, 5.0]), loaded(a=[1e6, 5.0, 5.0, 5.0]), {}),
        (loaded(a=[8.0] * 4), loaded(a=[-8.0] * 4), {"a": 16.0}),
        (loaded(**{"": "raises KeyError"}), loaded(**{"": "raises KeyError"}), {}),
        (loaded(**{"": "raises KeyError"}), loaded(a="is missing"), {changes.THE_LOAD: None}),
    ],
)
def test_a_tensor_differs_beyond_the_bound_or_in_kind(old, new, found):
    """Within four bounds nothing can be said; what raises, is missing or of another shape differs from what is not."""
    assert differences(old, new) == found
    assert differences(new, old) == found


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_projection_measures_the_root_mean_square(size):
    """The mean over many names, each with directions of its own, is the tensor's mean square."""
    units = torch.linspace(-50, 90, size, dtype=torch.float64)
    squares = [x * x for name in range(400) for x in _projected(units, str(name))]
    assert len(squares) == 400 * DIRECTIONS
    assert sum(squares) / len(squares) == pytest.approx(float((units**2).mean()), rel=0.15)


def test_rounding_differences_stay_below_the_threshold():
    """Entries off by no more than their bound, in the worst pattern of 2000 random ones, are no change."""
    generator = torch.Generator().manual_seed(0)
    for n in range(500):
        units = torch.randint(0, 2, (256,), generator=generator, dtype=torch.float64) * 2 - 1
        assert differences(loaded(a=_projected(units, str(n))), loaded()) == {}


@pytest.fixture(scope="module")
def trial():
    """A resampled case on the reference."""
    family = FAMILIES["openai_clip"]
    stratum = next(s for s in STRATA if s.name == "grow/grow")
    case = next(c for c in drawn(family, stratum, 30) if c.dtype == "float32" and c.contents.kind == "normal")
    return Trial(family, case, Loader(parse_target("reference")))


def altered(trial, **tensors):
    """The trial's load with some tensors changed."""
    state = {**trial.base.state, **tensors}
    base = Loaded((state, {k: v for k, v in state.items() if v is not None}), None)
    view = SimpleNamespace(undecidable=None, case=trial.case, base=base, expected=trial.expected, bound=trial.bound)
    return loaded_case(view)


def test_the_reference_deviates_in_nothing(trial):
    """What agrees within its bound is not mentioned; the kernel's error is."""
    seen = loaded_case(trial)
    assert seen.id == case_id(trial.case)
    assert seen.deviations == {}
    assert seen.ratio > 1
    assert 0 <= seen.error <= 1


def test_every_way_to_deviate_is_told(trial):
    """Missing, appearing, of another shape, not finite, of other values; layers by a star."""
    kernel, grid = "patch_embed.proj.weight", "pos_embed"
    block = next(k for k in trial.expected if k.startswith("blocks.0."))
    want = trial.expected
    seen = altered(
        trial,
        **{
            kernel: want[kernel] * 1.01,
            grid: None,
            block: want[block] * float("nan"),
            "norm.bias": want["norm.bias"][:1],
        },
        extra=want["norm.bias"],
    )
    starred = block.replace(".0.", ".*.")
    assert set(seen.deviations) == {kernel, grid, starred, "norm.bias", "extra"}
    assert seen.deviations[grid] == "is missing"
    assert seen.deviations["norm.bias"] == "is 1"
    assert seen.deviations["extra"] == "appears"
    assert seen.deviations[starred] == "is not finite"
    assert seen.error > 100
    assert max(map(abs, seen.deviations[kernel])) > 100
    assert set(differences(altered(trial), seen)) == set(seen.deviations)


def header(target, version):
    """A header of a release."""
    return Header(target, version, "3", "2", "p", "cpu", [], "gate", 0, ["openai_clip"], {})


def test_releases_are_compared_with_the_one_before_that_knows_the_family():
    """By version and not by order; the reference is no release; a checkout comes after the release it is called after."""
    targets = {
        "timm==1.0.10": "1.0.10",
        "timm==1.0.9": "1.0.9",
        "path:x": "1.0.10",
        "timm==0.9.0": "0.9.0",
        "reference": "1.0.10",
    }
    made = {"timm==1.0.9": [50.0] * 4, "timm==1.0.10": [50.0] * 4, "path:x": [90.0] * 4, "reference": [0.0] * 4}
    loads = [Loads(t, "openai_clip", [loaded(a=v)]) for t, v in made.items()] + [
        Loads("timm==0.9.0", "openai_clip", [])
    ]
    found = changes.changes(Results([*(header(t, v) for t, v in targets.items()), *loads]))
    assert [(c.previous, c.target, c.cases, c.compared, c.tensors) for c in found] == [
        ("timm==1.0.10", "path:x", 1, 1, ["a"])
    ]
    assert found[0].largest == pytest.approx(40)


def test_only_the_same_cases_are_compared():
    """Cases of another seed say nothing."""
    old, new = (
        Loads(t, "f", [LoadedCase(i, deviations={"a": v})])
        for t, i, v in [("x", "1", "is missing"), ("y", "2", [1.0] * 4)]
    )
    assert between(old, new) is None
