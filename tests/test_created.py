"""What create_model is asked for beyond the checkpoint: other channels, classes and options; judged, and told when wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from tests.small_vit import ARCH, OPTIONS, geometry_of
from timm_conformance import reference
from timm_conformance.cases.case import DAMAGES, Case, Contents, Geometry
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.drawing.catalogue import models_of
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.drawing.strategies import strata_of
from timm_conformance.engine.judging import Judgement, judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.trial import Trial

KERNEL = "patch_embed.proj.weight"


PARTS = ("weight", "bias")
# A grid whose rows, with the class token's, are as many as those of a square.
ROW = Geometry((4, 4), (3, 1))


@cache
def loader(target: str = "reference") -> Loader:
    return Loader(parse_target(target))


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


# -- a model with other options than the checkpoint's ------------------------------------------------------------------


def used(family: str, target: str = "reference", **fields: Any) -> Judgement:
    """The judgement of trained-tensors-used on a small case of a family; ``fields`` replace those of the case."""
    geometry = geometry_of(family)
    case = Case(
        family,
        ARCH | OPTIONS.get(family, {}) | fields.pop("arch", {}),
        geometry,
        geometry,
        wrapper=FAMILIES[family].wrappers[0],
        container=FAMILIES[family].containers[0],
        model_name=models_of(FAMILIES[family])[0].name,
    )
    case = msgspec.structs.replace(case, **fields)
    return judge(INVARIANTS["trained-tensors-used"], Trial(FAMILIES[family], case, loader(target)))


def kinds(judgement: Judgement) -> set[str]:
    return {f"{p.kind}:{p.tensor}" for p in judgement.problems}


NORM = {"global_pool": "avg", "fc_norm": True}
BIASES = {"qkv_bias": False}


@pytest.mark.parametrize(
    ("family", "fields", "outcome"),
    [
        ("deit", {"asked": NORM}, "pass"),  # refused
        ("deit", {"asked": {"global_pool": "avg", "fc_norm": False}}, "pass"),  # all tensors have their place
        ("deit", {"asked": {"no_embed_class": True}}, "pass"),
        ("deit", {"num_classes": 7}, "pass"),
        ("deit", {}, "not-applicable"),
        ("deit", {"num_classes": 3}, "not-applicable"),  # the checkpoint's own number, said
        ("deit", {"asked": {"no_embed_class": True}, "declared": "absent"}, "not-applicable"),
        ("unknown_layout", {"num_classes": 7, "arch": {"layout": "hugging-face"}}, "pass"),
    ],
)
def test_the_reference_uses_every_trained_tensor_or_refuses(family: str, fields: dict, outcome: str) -> None:
    found = used(family, **fields)
    assert (found.outcome, *found.problems) == (outcome,)


@pytest.mark.parametrize(
    ("target", "family", "fields", "found"),
    [
        ("timm==1.0.31", "deit", {"asked": NORM}, set()),
        (
            "timm==1.0.31",
            "deit",
            {"asked": NORM, "num_classes": 7},
            {"dropped:norm.weight", "dropped:norm.bias"},
        ),
        ("timm==1.0.31", "deit", {"asked": BIASES, "num_classes": 0}, {"dropped:blocks.*.attn.qkv.bias"}),
        (
            "timm==1.0.31",
            "deit",
            {"asked": {"no_embed_class": True}, "destination": Geometry((4, 4), (1, 1))},
            {"raises-RuntimeError:resample_abs_pos_embed()"},
        ),
        (
            "timm==1.0.31",
            "deit",
            {"asked": {"no_embed_class": True}, "source": ROW, "destination": ROW},
            {"value:pos_embed", "value:cls_token"},
        ),
        ("timm==1.0.31", "google_npz", {"asked": {"final_norm": False}}, {f"dropped-silently:norm.{p}" for p in PARTS}),
        (
            "timm==1.0.31",
            "unknown_layout",
            {"num_classes": 7, "arch": {"layout": "text-tower"}},
            {"nothing-used:"},
        ),
        (
            # One of the constants is 0, as in the model's own bias.
            "timm==1.0.31",
            "deit",
            {"num_classes": 7, "saved": "module", "container": "pth", "contents": Contents("constant", 1)},
            {"nothing-used:"},
        ),
    ],
)
def test_what_a_release_drops_misreads_or_refuses_unclearly_is_told(
    target: str, family: str, fields: dict, found: set[str]
) -> None:
    assert kinds(used(family, target, **fields)) == found


def test_a_load_that_drops_without_a_word_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm logs below a warning nobody sees."""
    monkeypatch.setattr(logging.Logger, "warning", logging.Logger.info)
    found = used("deit", "timm==1.0.31", asked=NORM, num_classes=7)
    assert kinds(found) == {f"dropped-silently:norm.{part}" for part in PARTS}


@pytest.mark.parametrize("seed", [5, 11, 2, 23, 14], ids=lambda seed: DAMAGES[seed % len(DAMAGES)])
def test_a_damaged_file_that_create_model_takes_is_told(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a release whose load is strict it is refused; by one that loads what fits it is not."""
    geometry = Geometry((2, 2), (2, 2))
    family = FAMILIES["openai_clip"]
    arch, name = ARCH | OPTIONS[family.name], models_of(family)[0].name
    case = Case(family.name, arch, geometry, geometry, contents=Contents(seed=seed), model_name=name)
    assert case.turn % 3 == 0
    one = Trial(family, case, loader("timm==1.0.31"))
    assert judge(INVARIANTS["create-model-refuses"], one).outcome == "pass"
    load = nn.Module.load_state_dict

    def fitting(module: nn.Module, state: dict[str, Tensor], *_: Any, **__: Any) -> Any:
        own = module.state_dict()
        return load(module, {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}, strict=False)

    monkeypatch.setattr(nn.Module, "load_state_dict", fitting)
    found = judge(INVARIANTS["create-model-refuses"], Trial(family, case, loader("timm==1.0.31")))
    assert [p.kind for p in found.problems] == [f"{case.damage}-loaded"], found


def test_every_ask_is_of_a_model_that_timm_builds() -> None:
    """An ask that no release can build would never be judged."""
    builder = loader("timm==1.0.31")
    for family in FAMILIES.values():
        arch = Drawing(PROFILES["smoke"], 0).more(family, strata_of(family)[0])[0].arch
        for ask in family.asks(arch):
            geometry = Geometry((4, 4) if family.max_patch > 1 else (1, 1), (4, 4))
            case = Case(family.name, arch | ask, geometry, geometry)
            assert builder.model(family, case, geometry, None), (family.name, ask)
