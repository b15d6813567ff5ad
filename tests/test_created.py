"""What create-model is asked for beyond the checkpoint, other channels and classes: judged, and told when wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec
import pytest
import torch.nn.functional as F
from torch import Tensor

from tests.small_vit import ARCH, OPTIONS, geometry_of
from timm_conformance import reference
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.drawing.catalogue import models_of
from timm_conformance.engine.judging import Judgement, judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.trial import Trial

KERNEL = "patch_embed.proj.weight"


@cache
def loader() -> Loader:
    return Loader(parse_target("reference"))


def judged(family: str, **asked: int | None) -> Judgement:
    """The create-model invariant on the reference for a small case that asks for other channels or classes."""
    geometry = geometry_of(family)
    case = Case(
        family,
        ARCH | OPTIONS[family],
        geometry,
        geometry,
        wrapper=FAMILIES[family].wrappers[0],
        container=FAMILIES[family].containers[0],
        model_name=models_of(FAMILIES[family])[0].name,
        **asked,
    )
    return judge(INVARIANTS["create-model"], Trial(FAMILIES[family], case, loader()))


ASKING = ["openai_clip", "deit_distilled", "google_npz", "mobileclip"]


def _unscaled(weight: Tensor, channels: int) -> Tensor:
    return weight[:, [n % weight.shape[1] for n in range(channels)]]


def _averaged(weight: Tensor, channels: int) -> Tensor:
    return weight.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def _padded(weight: Tensor, channels: int) -> Tensor:
    return F.pad(weight, (0, 0, 0, 0, 0, channels - weight.shape[1]))


@pytest.mark.parametrize("family", ASKING)
@pytest.mark.parametrize("asked", [{"in_chans": 1}, {"in_chans": 4}, {"num_classes": 0}, {"num_classes": 7}], ids=str)
def test_create_model_passes_what_is_adapted_as_asked(family: str, asked: dict[str, int]) -> None:
    result = judged(family, **asked)
    assert result.outcome == "pass", result


@pytest.mark.parametrize("family", ASKING)
@pytest.mark.parametrize(
    ("wrong", "channels"),
    [(_unscaled, 4), (_unscaled, 1), (_averaged, 4), (_averaged, 1), (_padded, 4)],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_create_model_catches_a_wrong_adaptation(
    family: str, wrong: Callable[[Tensor, int], Tensor], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm_conformance.reference.loader.adapt_input_channels", wrong)
    result = judged(family, in_chans=channels)
    assert result.outcome == "fail", result
    first = FAMILIES[family].first_conv(ARCH | OPTIONS[family])
    assert {(p.kind, p.tensor) for p in result.problems} == {("value", first.replace(".0.", ".*."))}


def test_create_model_catches_a_classifier_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    load = reference.load_state_dict

    def forgetful(checkpoint, model, keep_classifier=False, **options):
        return load(checkpoint, model, **options)

    monkeypatch.setattr(reference, "load_state_dict", forgetful)
    result = judged("openai_clip", num_classes=7)
    assert result.outcome == "fail", result
    assert [p.kind for p in result.problems] == ["raises-LoadError"]


@pytest.mark.parametrize("asked", [0, 7])
def test_create_model_catches_a_model_of_other_classes_than_asked(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loader()
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kw: create(*args, **(kw | {"num_classes": 5})))
    result = judged("openai_clip", num_classes=asked)
    assert result.outcome == "fail", result
    assert {(p.kind, p.tensor) for p in result.problems} == {("classes", "head.weight"), ("classes", "head.bias")}
    assert f"has 5 classes, {asked} were asked for" in result.problems[0].message


def test_create_model_catches_a_classifier_unfit_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    loader()
    import timm

    create = timm.create_model

    def unfit(*args, **kwargs):
        made = create(*args, **kwargs)
        made.head.weight.detach().fill_(float("nan"))
        return made

    monkeypatch.setattr(timm, "create_model", unfit)
    result = judged("openai_clip", num_classes=7)
    assert {p.kind for p in result.problems} == {"not-finite"}


@pytest.mark.parametrize(
    ("family", "wrapper", "container"), [("google_npz_resnet", "params/", "npz"), ("hybrid_resnet", "bare", "pth")]
)
def test_a_model_that_nobody_can_build_says_nothing_of_a_loader(family, wrapper, container):
    """torch's group norm refuses one value a group: our narrow stages over a single pixel. Found by a hunt."""
    one = Geometry((1, 1), (1, 1))
    name = models_of(FAMILIES[family])[0].name
    case = Case(
        family, ARCH | OPTIONS[family] | {"stages": 2}, one, one, wrapper=wrapper, container=container, model_name=name
    )
    judgement = judge(INVARIANTS["create-model"], Trial(FAMILIES[family], case, loader()))
    assert judgement.outcome == "not-applicable", judgement
    assert "single pixel of features" in judgement.reason
    larger = msgspec.structs.replace(case, destination=Geometry((1, 1), (1, 2)))
    assert judge(INVARIANTS["strict-load"], Trial(FAMILIES[family], larger, loader())).outcome == "pass"
