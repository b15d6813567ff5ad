"""timm's doors: the same file by each gives the same model; a door that differs is told, and one that refuses is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from tests.small_vit import ARCH, OPTIONS
from timm_conformance.cases.case import DOORS as NAMES
from timm_conformance.cases.case import Case, Contents, Geometry
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.drawing.catalogue import models_of
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.engine.explorer import Explorer
from timm_conformance.engine.judging import judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.entries import Ledger
from timm_conformance.targets.doors import DOORS
from timm_conformance.targets.factory import FactoryCall
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.trial import Trial

SMALL, LARGE = Geometry((2, 2), (2, 3)), Geometry((4, 4), (3, 4))
DOORS_AGREE = INVARIANTS["doors-agree"]


@cache
def loader() -> Loader:
    return Loader(parse_target("timm==1.0.31"))


def trial(door: str, family: str = "openai_clip", **changes: Any) -> Trial:
    """A case by a door, from a small geometry to a larger one unless it says otherwise."""
    model = models_of(FAMILIES[family])[0]
    given = {"source": SMALL, "destination": LARGE, "container": FAMILIES[family].containers[0], **changes}
    arch = ARCH | OPTIONS[family] if family == "openai_clip" else _drawn(family)
    return Trial(FAMILIES[family], Case(family, arch, model_name=model.name, door=door, **given), loader())


@cache
def _drawn(family: str) -> dict[str, Any]:
    """The options of the first case drawn."""
    return next(c.arch for drawn in Drawing(PROFILES["smoke"], 0).cases(FAMILIES[family]).values() for c in drawn)


def through(door: str) -> Trial:
    """A case that the door takes."""
    if door == "naflex-patches":
        return trial(door, "naflex_vit", source=Geometry((2, 2), (3, 3)))
    if door == "checkpoint-path":
        return trial(door, "timm_native", destination=SMALL)
    if door == "own-sizes":
        own = models_of(FAMILIES["openai_clip"])[0].geometry
        return trial(door, source=own, destination=own)
    return trial(door)


def test_every_door_that_can_be_drawn_is_there() -> None:
    assert tuple(DOORS) == NAMES


@pytest.mark.parametrize("door", NAMES)
def test_a_door_gives_the_model_that_create_model_gives(door: str) -> None:
    one = through(door)
    assert isinstance(one.by_door.outcome, nn.Module), one.by_door.outcome
    found = judge(DOORS_AGREE, one)
    assert found.outcome == "pass", found


@pytest.mark.parametrize("seed", [0, 2], ids=["options-repeated", "left-to-the-folder"])
def test_a_folder_gives_the_options_that_the_call_leaves_to_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the sizes, which are not those of the model that was saved."""
    asked: list[dict[str, Any]] = []
    call = FactoryCall.__call__

    def heard(self: FactoryCall, pretrained: bool) -> nn.Module:
        if pretrained:
            asked.append(dict(self.kwargs))
        return call(self, pretrained)

    monkeypatch.setattr(FactoryCall, "__call__", heard)
    one = trial("local-dir", contents=Contents("normal", seed), num_classes=None)
    assert isinstance(one.by_door.outcome, nn.Module), one.by_door.outcome
    assert ("embed_dim" in asked[-1]) is (seed == 0)
    assert {"img_size", "patch_size"} <= asked[-1].keys()
    assert judge(DOORS_AGREE, one).outcome == "pass"


def _changed(names: str) -> Callable[[nn.Module], nn.Module]:
    def change(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name in names.split():
                model.get_parameter(name).add_(1)
        return model

    return change


@pytest.mark.parametrize("door", [name for name in NAMES if DOORS[name].fed is None])
def test_a_door_that_changes_a_tensor_is_told(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = through(door)
    outcome = one.by_door.outcome
    assert isinstance(outcome, nn.Module)
    _changed("pos_embed norm.bias")(outcome)
    found = judge(DOORS_AGREE, one)
    assert found.outcome == "fail"
    assert {(p.kind, p.tensor) for p in found.problems} == {("value", "pos_embed"), ("value", "norm.bias")}


def _other_dtype(model: nn.Module) -> None:
    model.get_submodule("norm").to(torch.float16)


def _elsewhere(model: nn.Module) -> None:
    model.get_submodule("norm").to("meta")


def _frozen(model: nn.Module) -> None:
    model.get_submodule("norm").requires_grad_(False)


@pytest.mark.parametrize("by", ["create_model", "state-dict", "set-input-size"])
@pytest.mark.parametrize(
    ("change", "kind"), [(None, ""), (_other_dtype, "dtype"), (_elsewhere, "device"), (_frozen, "frozen")]
)
def test_a_model_that_is_not_as_it_was_built_is_told(by: str, change: Callable | None, kind: str) -> None:
    """As of a load with ``assign=True``, of one that moves the model, or of one that leaves it frozen."""
    one = through("state-dict" if by == "create_model" else by)
    model = (one.created_model if by == "create_model" else one.by_door).outcome
    assert isinstance(model, nn.Module)
    if change is not None:
        change(model)
    found = judge(INVARIANTS["model-kept-as-built"], one)
    assert found.outcome == ("fail" if change else "pass")
    assert {(p.kind, p.tensor) for p in found.problems} == (
        {(kind, f"norm.{n}") for n in ("weight", "bias")} if change else set()
    )


@pytest.mark.parametrize("door", [name for name in NAMES if DOORS[name].fed is not None])
def test_a_forward_that_resizes_wrongly_is_told(door: str) -> None:
    one = through(door)
    outcome = one.by_door.outcome
    assert isinstance(outcome, nn.Module)
    name = "embeds.pos_embed" if door == "naflex-patches" else "pos_embed"
    with torch.no_grad():
        outcome.get_parameter(name).mul_(1.001)
    found = judge(DOORS_AGREE, one)
    assert found.outcome == "fail"
    assert {(p.kind, p.tensor) for p in found.problems} == {("output", "output")}


def test_a_model_in_which_nothing_arrived_is_one_failure() -> None:
    one = trial("state-dict")
    assert isinstance(one.by_door.outcome, nn.Module)
    with torch.no_grad():
        for parameter in one.by_door.outcome.parameters():
            parameter.fill_(7)
    (problem,) = judge(DOORS_AGREE, one).problems
    assert problem.kind == "nothing-used"


@pytest.mark.parametrize(
    ("door", "family", "changes"),
    [
        ("checkpoint-path", "openai_clip", {}),  # it converts nothing: a strict load refuses OpenAI's names
        ("checkpoint-path", "timm_native", {}),  # and resamples nothing
        ("load-checkpoint", "openai_clip", {"num_classes": 7}),  # it does not know of other classes
        ("load-checkpoint", "openai_clip", {"in_chans": 1}),
        ("custom-load-unsaid", "google_npz", {}),  # an .npz file has to be announced
    ],
)
def test_a_door_may_refuse_what_timm_does_not_promise_of_it(door: str, family: str, changes: dict) -> None:
    one = trial(door, family, **changes)
    assert isinstance(one.by_door.outcome, Exception)
    assert judge(DOORS_AGREE, one).outcome == "pass"


@pytest.mark.parametrize(
    ("door", "function"),
    [
        ("local-dir", "timm.models._builder.load_state_dict_from_path"),
        ("load-checkpoint", "timm.models.load_checkpoint"),
        ("set-input-size", "timm.models.vision_transformer.VisionTransformer.set_input_size"),
    ],
)
def test_a_door_that_refuses_what_create_model_takes_is_told(door: str, function: str, monkeypatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError("closed today")

    one = trial(door)
    assert isinstance(one.created_model.outcome, nn.Module)
    monkeypatch.setattr(function, refuse)
    found = judge(DOORS_AGREE, one)
    assert [(p.kind, p.tensor) for p in found.problems] == [("raises-ValueError", "refuse()")]


def test_a_file_that_no_way_takes_says_nothing_of_a_door(monkeypatch) -> None:
    loader()
    monkeypatch.setattr("timm.models.vision_transformer.checkpoint_filter_fn", lambda *args: 1 / 0)
    assert judge(DOORS_AGREE, trial("state-dict")).outcome == "pass"


@pytest.mark.parametrize(
    ("door", "family", "changes", "reason"),
    [
        ("set-input-size", "openai_clip", {"destination": SMALL}, "the model has the checkpoint's geometry already"),
        ("dynamic-img-size", "openai_clip", {"destination": SMALL}, "the model has the checkpoint's grid already"),
        ("dynamic-img-size", "openai_clip", {"dtype": "float16"}, "half precision"),
        ("dynamic-img-size", "openai_clip", {"num_classes": 7}, "other channels or classes"),
        ("dynamic-img-size", "sam", {}, "windows do not follow"),
        ("naflex-patches", "openai_clip", {}, "takes images only"),
        ("own-sizes", "openai_clip", {}, "other sizes than the registered model"),
    ],
)
def test_a_case_that_cannot_go_through_is_not_applicable(door: str, family: str, changes: dict, reason: str) -> None:
    found = judge(DOORS_AGREE, trial(door, family, **changes))
    assert found.outcome == "not-applicable"
    assert reason in found.reason


def test_a_release_without_a_door_is_excused() -> None:
    """SAM's models have no ``set_input_size``: the regime is excused, and the run is not vacuous."""
    one = trial("set-input-size", "sam")
    found = judge(DOORS_AGREE, one)
    assert (found.outcome, found.unsupported) == ("not-applicable", True)
    assert "no set_input_size" in found.reason


def test_only_timm_has_doors() -> None:
    reference = Loader(parse_target("reference"))
    explorer = Explorer(reference, Ledger([], {}), [DOORS_AGREE], Drawing(PROFILES["smoke"], 0))
    (verdict,) = explorer.explore(FAMILIES["openai_clip"])
    assert (verdict.verdict, verdict.cases) == ("not-applicable", {})
    assert DOORS_AGREE.regimes_on("reference") == DOORS_AGREE.regimes_on("loader") == ()


def test_half_of_the_files_go_through_a_door() -> None:
    cases = [c for drawn in Drawing(PROFILES["gate"], 0).cases(FAMILIES["openai_clip"]).values() for c in drawn]
    filed = [c for c in cases if c.container != "memory" and not c.asked]
    assert 0.3 < sum(bool(c.door) for c in filed) / len(filed) < 0.7
    assert not any(c.door for c in cases if c.container == "memory" or c.asked)
    assert all(c.door in FAMILIES["openai_clip"].doors for c in filed if c.door)


@pytest.mark.parametrize("door", NAMES)
def test_a_family_is_asked_for_the_doors_that_its_files_can_go_through(door: str) -> None:
    reached = {name: family.reaches(f"door-{door}", "doors-agree") for name, family in FAMILIES.items()}
    assert reached["google_npz"] is (door not in ("state-dict", "local-dir", "naflex-patches"))
    assert reached["naflex_vit"] is (door != "set-input-size")
    assert not reached["naflex_radio"], "it is never written to a file"
