"""Ambient states of torch, memory that a model shares with its checkpoint, and float64: what breaks each law is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from timm_conformance import reference
from timm_conformance.cases.case import AMBIENT, Case, Contents
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.engine.judging import Judgement, inapplicable, judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import loader_target, parse_target
from timm_conformance.trials import ambient
from timm_conformance.trials.trial import Trial
from timm_conformance.vectors.selection import choose_cases

REFERENCE = Loader(parse_target("reference"))
HEAD_BIAS = "head.bias"


def case_of(
    family: str = "openai_clip", state: str = "no-grad", how: str = "native", turn: int = 0, **fields: Any
) -> Case:
    """A small case in an ambient state, of the geometry of a golden vector, which every invariant meant here judges."""
    case = next(case for choice, case in choose_cases(FAMILIES[family]).items() if choice.name == how)
    case = replace(case, **{"container": FAMILIES[family].containers[0]} | fields)
    turn += len(AMBIENT) * 4 * 12 + AMBIENT.index(state)
    return replace(case, contents=Contents("normal", turn - replace(case, contents=Contents()).turn))


def judged(name: str, case: Case, function: Callable | None = None) -> Judgement:
    loader = (
        REFERENCE if function is None else Loader(loader_target("tests.fakes:perfect", "installed"), function=function)
    )
    torch.manual_seed(0)
    return judge(INVARIANTS[name], Trial(FAMILIES[case.family], case, loader))


def kinds(judgement: Judgement) -> set[str]:
    assert judgement.outcome in ("pass", "fail"), judgement
    return {f"{p.kind}:{p.tensor}" for p in judgement.problems}


# -- loaders -----------------------------------------------------------------------------------------------------------


def perfect(checkpoint, model):
    return reference.load_state_dict(checkpoint, model)


def zeros_by_default(checkpoint, model):
    state = perfect(checkpoint, model)
    return state | {HEAD_BIAS: torch.zeros(len(state[HEAD_BIAS]))}


def product(checkpoint, model):
    return {k: (torch.eye(len(v)) @ v).to(v.dtype) if v.ndim == 2 else v for k, v in perfect(checkpoint, model).items()}


def joins(checkpoint, model):
    """Joins float16 tensors, which autocast for bfloat16 refuses."""
    return {k: torch.cat([v[:1], v[1:]]) for k, v in perfect(checkpoint, model).items()}


def turns_gradients_on(checkpoint, model):
    torch.set_grad_enabled(True)
    return perfect(checkpoint, model)


def leaves_a_default_dtype(checkpoint, model):
    torch.set_default_dtype(torch.float32)
    return perfect(checkpoint, model)


def leaves_a_default_device(checkpoint, model):
    torch.set_default_device("cpu")
    return perfect(checkpoint, model)


def chooses_algorithms(checkpoint, model):
    torch.use_deterministic_algorithms(False)
    return perfect(checkpoint, model)


def caching() -> Callable:
    """A loader that keeps the tensor it adds, wherever it was when it was first asked for."""
    kept: list[torch.Tensor] = []
    calls: list[int] = []

    def load(checkpoint, model):
        state = perfect(checkpoint, model)
        calls.append(1)
        if len(calls) > 1 and not kept:
            kept.append(torch.zeros(len(state[HEAD_BIAS]), dtype=state[HEAD_BIAS].dtype))
        return state | {HEAD_BIAS: kept[0]} if kept else state

    return load


def updating() -> Callable:
    """A loader that keeps a tensor and writes into it, which torch refuses for one that was made in inference mode."""
    kept: list[torch.Tensor] = []
    calls: list[int] = []

    def load(checkpoint, model):
        state = perfect(checkpoint, model)
        calls.append(1)
        if len(calls) > 1 and not kept:
            kept.append(torch.zeros_like(state[HEAD_BIAS]))
        if kept:
            kept[0].zero_()
        return state

    return load


@pytest.mark.parametrize(
    ("function", "state", "fields", "found"),
    [
        (zeros_by_default, "default-float64", {}, {"dtype:head.bias"}),
        (zeros_by_default, "default-bfloat16", {}, {"dtype:head.bias"}),
        (zeros_by_default, "default-device", {}, {"device:head.bias"}),
        (zeros_by_default, "no-grad", {}, set()),
        (product, "autocast", {}, {"value:blocks.*.mlp.fc1.weight"}),
        (product, "inference-mode", {}, set()),
        (joins, "autocast", {"dtype": "float16"}, {"raises-RuntimeError:joins()"}),
        (turns_gradients_on, "no-grad", {}, {"state-changed:"}),
        (turns_gradients_on, "deterministic", {}, set()),
        (leaves_a_default_dtype, "default-bfloat16", {}, {"state-changed:"}),
        (leaves_a_default_device, "default-device", {}, {"state-changed:"}),
        (chooses_algorithms, "deterministic", {}, {"state-changed:"}),
        (caching(), "default-device", {}, {"device:head.bias", "device-afterwards:head.bias"}),
        (updating(), "inference-mode", {}, {"raises-RuntimeError:load()"}),
        (updating(), "no-grad", {}, set()),
    ],
)
def test_a_load_that_depends_on_its_ambient_state_is_caught(
    function: Callable, state: str, fields: dict, found: set[str]
) -> None:
    told = kinds(judged("ambient-state-ignored", case_of(state=state, **fields), function))
    assert found <= told
    assert bool(found) == bool(told)


@pytest.mark.parametrize("state", AMBIENT)
@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("openai_clip", "float32"),
        ("openai_clip", "float16"),
        ("beit", "float32"),
        ("google_npz", "float16"),
        ("sam", "bfloat16"),
    ],
)
def test_the_reference_loads_the_same_in_every_state(family: str, dtype: str, state: str) -> None:
    """Resampled: kernel, positions, tables of both kinds."""
    for how in ("native", "mixed"):
        case = case_of(family, state, how, dtype=dtype)
        for name in ("ambient-state-ignored", "create-model-ignores-ambient-state"):
            result = judged(name, case)
            built = name == "ambient-state-ignored" or state != "default-device"
            assert result.outcome == ("pass" if built else "not-applicable"), (name, result)


def test_a_model_that_is_created_in_a_default_dtype_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is judged by its values; it is refused when these come from elsewhere."""
    for state in ("default-float64", "default-bfloat16"):
        assert kinds(judged("create-model-ignores-ambient-state", case_of(state=state))) == set()

    def off(checkpoint, model):
        found = perfect(checkpoint, model)
        wrong = torch.get_default_dtype() == torch.float64
        return found | {"norm.weight": found["norm.weight"] * (1 + 1e-5)} if wrong else found

    wrong = judged("create-model-ignores-ambient-state", case_of(state="default-float64"), off)
    assert kinds(wrong) == {"value:norm.weight"}


@pytest.mark.parametrize("state", AMBIENT)
def test_a_state_ends_with_its_block(state: str) -> None:
    """Whatever the block does to torch's settings, and where it raises too; the changes are told."""

    def settings() -> tuple:
        return (
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            (torch.ones(1, 1) @ torch.ones(1, 1)).dtype,
        )

    before = settings()
    with ambient.within(state, "cpu") as changed:
        assert settings() != before
    assert (changed, settings()) == ([], before)
    with ambient.within(state, "cpu") as changed:
        torch.set_default_dtype(torch.float16)
        torch.set_default_device("cpu")
        torch.use_deterministic_algorithms(True, warn_only=True)
    assert settings() == before
    assert any("the default dtype is torch.float16" in line for line in changed)
    with pytest.raises(TypeError), ambient.within(state, "cpu"):
        torch.set_default_dtype(torch.int64)
    assert settings() == before


# -- memory ------------------------------------------------------------------------------------------------------------


def assigns(checkpoint, model):
    state = perfect(checkpoint, model)
    model.load_state_dict(state, assign=True)
    return state


def assigns_a_buffer(checkpoint, model):
    state = perfect(checkpoint, model)
    model.register_buffer("spare", state["norm.weight"], persistent=False)
    return state


@pytest.mark.parametrize("function", [assigns, assigns_a_buffer])
def test_a_model_that_shares_memory_with_its_checkpoint_is_caught(function: Callable) -> None:
    for name in ("shares-no-memory", "create-model-shares-no-memory"):
        assert (
            kinds(judged(name, case_of(state="default-float64")))
            == kinds(judged(name, case_of(state="default-float64"), perfect))
            == set()
        )
        found = kinds(judged(name, case_of(state="default-float64"), function))
        assert found
        assert {what.split(":")[0] for what in found} == {"shared"}


def test_what_a_loader_returns_may_be_the_checkpoints_own() -> None:
    """load_state_dict copies it."""
    case = case_of("timm_native", "default-float64")
    trial = Trial(FAMILIES["timm_native"], case, REFERENCE)
    state = reference.load_state_dict(trial.upstream, trial.model())
    assert any(v.data_ptr() == trial.upstream[k].data_ptr() for k, v in state.items() if k in trial.upstream)
    assert judged("shares-no-memory", case).outcome == "pass"


# -- float64 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["openai_clip", "beit", "google_npz", "sam", "naflex_vit"])
def test_the_reference_keeps_a_float64_checkpoint(family: str) -> None:
    for how in ("native", "mixed"):
        case = case_of(family, how=how, dtype="float64")
        for invariant in INVARIANTS.values():
            if invariant.concerns(FAMILIES[family]):
                result = judge(invariant, Trial(FAMILIES[family], case, REFERENCE))
                assert result.outcome in ("pass", "not-applicable"), (invariant.name, result)


def through_float32(checkpoint, model):
    return {k: v.float().to(v.dtype) for k, v in perfect(checkpoint, model).items()}


def to_float32(checkpoint, model):
    return {k: v.float() for k, v in perfect(checkpoint, model).items()}


def test_float64_tensors_that_are_rounded_on_the_way_are_caught() -> None:
    case = case_of(dtype="float64")
    assert "value:norm.weight" in kinds(judged("native-identity", case, through_float32))
    assert kinds(judged("dtype-kept", case, through_float32)) == set()
    assert "dtype:norm.weight" in kinds(judged("dtype-kept", case, to_float32))
    for correct in (perfect, through_float32, to_float32):  # a float32 model
        assert kinds(judged("create-model", case, correct)) == set()
    half = judged("create-model", case, lambda *given: {k: v.half() for k, v in perfect(*given).items()})
    assert "value:norm.weight" in kinds(half)


def test_a_run_creates_models_in_every_state_that_leaves_them_values() -> None:
    """No single family has enough files for that, so it is not among the regimes that create-model-ignores-... must meet."""
    drawing = Drawing(PROFILES["gate"], 0)
    met = set()
    for name in ("openai_clip", "dinov2", "eva", "timm_native", "beit", "mae", "swin", "deit", "google_npz", "eva02"):
        for case in (case for drawn in drawing.cases(FAMILIES[name]).values() for case in drawn):
            trial = Trial(FAMILIES[name], case, Loader(parse_target("reference")))
            if inapplicable(INVARIANTS["create-model-ignores-ambient-state"], trial) is None:
                met.add(case.ambient)
    assert met == set(AMBIENT) - {"default-device"}
