"""Flax trees: arrays to tensors, prefixes, scanned blocks, files; and how a loader that writes into a model is watched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small_vit import ARCH, Model, refusal
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.checkpoints import files, state_dicts, wrappers
from timm_conformance.engine.judging import Judgement, judge
from timm_conformance.families import FAMILIES, Family
from timm_conformance.invariants import INVARIANTS
from timm_conformance.reference import FORMATS, LoadError, detect, flax, load_state_dict, unwrap
from timm_conformance.reference.stems import count_units
from timm_conformance.targets.loader import _load_in_place
from timm_conformance.trials.problems import exact_differences
from timm_conformance.trials.trial import Trial

GEOMETRY = Geometry((4, 4), (2, 2))
# Two blocks, so that a stack has an order.
OPTIONS: dict[str, dict[str, Any]] = {
    "google_npz": {"depth": 2, "fc_norm": False},
    "big_vision": {"depth": 2, "fc_norm": False, "no_embed_class": True, "global_pool": "map", "class_token": False},
}
WRAPPED = [(family, wrapper) for family in OPTIONS for wrapper in FAMILIES[family].wrappers]
every_wrapper = pytest.mark.parametrize(("family", "wrapper"), WRAPPED)


def made(family: str, **more: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Model]:
    """A small checkpoint's truth, the same in its upstream layout without a prefix, and a model to load it."""
    case = Case(family, ARCH | OPTIONS[family], GEOMETRY, GEOMETRY, **more)
    truth = state_dicts.truth(FAMILIES[family], case)
    return (
        truth,
        state_dicts.encode(FAMILIES[family], case, truth),
        Model(FAMILIES[family], case.arch, GEOMETRY, GEOMETRY.img_size),
    )


# -- what is drawn -------------------------------------------------------------------------------------------------


def test_the_class_tokens_row_of_an_original_file_is_a_part_of_a_naflexvits_class_token() -> None:
    options = {"fc_norm": False, "no_embed_class": True, "embed_class": True, "projection": "conv"}
    case = Case("naflex_npz_google", ARCH | options, GEOMETRY, GEOMETRY)
    family = FAMILIES[case.family]
    truth = state_dicts.truth(family, case)
    upstream = state_dicts.encode(family, case, truth)
    row, positions = upstream["Transformer/posembed_input/pos_embedding"].split([1, GEOMETRY.tokens], dim=1)
    assert torch.equal(upstream["cls"] + row, truth["cls_token"])
    assert bool(row.any())
    assert torch.equal(positions, truth["pos_embed"])


def test_the_first_stage_has_a_second_bottleneck_without_a_projection_as_real_ones_have() -> None:
    for name in ("google_npz_resnet", "hybrid_resnet"):
        family = FAMILIES[name]
        options = family.by_model("vit_small_r26_s32_224.augreg_in21k") | {"fc_norm": False}
        case = Case(name, ARCH | options, GEOMETRY, GEOMETRY)
        upstream = state_dicts.encode(FAMILIES["google_npz_resnet"], case, state_dicts.truth(family, case))
        assert count_units(upstream, "block{stage}/unit{unit}/conv1/kernel") == [2, 1]
        assert count_units(upstream, "block{stage}/unit{unit}/conv_proj/kernel") == [1, 1]


# -- arrays --------------------------------------------------------------------------------------------------------


def test_two_byte_void_items_are_bfloat16() -> None:
    raw = np.array([[0x3F80, 0xC000], [0x3DCD, 0x7F80]], dtype=np.uint16).view("V2")
    got = flax.tensor(raw)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, torch.tensor([[1.0, -2.0], [0.1, float("inf")]]).bfloat16())
    assert torch.equal(flax.tensor(raw.T), got.T)
    assert torch.equal(flax.tensor(raw[::-1, :1]), got.flip(0)[:, :1])
    assert torch.equal(flax.tensor(raw[:1, 1].reshape(())), torch.tensor(-2.0).bfloat16())


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "uint8", "bool"])
def test_other_arrays_keep_their_dtype_and_values(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for view in (array, array.T, array[::-1], array[0, 0].reshape(())):
        got = flax.tensor(view)
        assert got.dtype == getattr(torch, dtype)
        assert got.shape == view.shape
        assert got.tolist() == view.tolist()
        assert got.tolist() == flax.tensor(view.astype(view.dtype.newbyteorder(">"))).tolist(), "bytes in another order"


@pytest.mark.parametrize("dtype", ["float32", "V2"])
def test_a_tensor_shares_no_memory_with_its_array(dtype: str) -> None:
    array = np.zeros(4, dtype=np.float32 if dtype == "float32" else np.uint16).view(dtype)
    array.setflags(write=False)
    got = flax.tensor(array)
    got.fill_(1.0)
    assert not array.tobytes().strip(b"\0")


STRANGE = {
    "object": np.array([None, "text"], dtype=object),
    "structured": np.zeros(2, dtype=[("mean", "f4"), ("count", "i4")]),
    "text": np.array(["vit"]),
    "structured in two bytes": np.zeros(2, dtype=[("mean", "i1"), ("count", "i1")]),
    "void": np.zeros(2, dtype="V4"),
    "date": np.zeros(2, dtype="M8[s]"),
}


@pytest.mark.parametrize("array", STRANGE.values(), ids=list(STRANGE))
def test_arrays_that_are_no_tensors_are_refused_in_one_line(array: np.ndarray) -> None:
    with pytest.raises(LoadError, match=r"no tensor$") as caught:
        flax.tensor(array)
    assert str(array.dtype) in str(caught.value)
    assert "\n" not in str(caught.value)
    _, upstream, model = made("google_npz")
    assert "no tensor" in refusal(upstream | {"extra": array}, model)


# -- prefixes and scanned blocks -----------------------------------------------------------------------------------


def test_the_prefix_under_which_the_patch_kernel_lies_is_taken_off_with_all_beside_it() -> None:
    trees = {prefix: {prefix + flax.ANCHOR: torch.zeros(1), f"{prefix}cls": torch.ones(1)} for prefix in flax.PREFIXES}
    assert set(trees) == {"opt/target/", "params/img/", "params/", "img/", ""}
    for prefix, tree in trees.items():
        assert flax.plain(tree).keys() == {flax.ANCHOR, "cls"}, prefix
        if prefix:
            beside = {
                "opt/state/step": torch.zeros(()),
                "params/t": torch.zeros(1),
                "txt/Embed_0/embedding": torch.ones(2),
            }
            beside = {k: v for k, v in beside.items() if not k.startswith(prefix)}
            assert not exact_differences(flax.plain(tree), flax.plain(beside | tree)), prefix
            assert not exact_differences(flax.plain(tree), flax.plain(tree | beside)), prefix


def test_a_tree_without_a_patch_kernel_is_left_as_it_is() -> None:
    tree = {"params/head/kernel": torch.zeros(1), "Transformer/encoderblock/LayerNorm_0/scale": torch.zeros(2, 3)}
    assert not exact_differences(tree, flax.plain(tree))
    assert flax.plain(tree) is not tree


@pytest.mark.parametrize("prefix", flax.PREFIXES)
def test_stacked_blocks_become_single_ones_in_their_order(prefix: str) -> None:
    stack = torch.arange(36.0).reshape(12, 3)
    tree = {
        prefix + flax.ANCHOR: torch.zeros(1),
        f"{prefix}Transformer/encoderblock/MlpBlock_0/Dense_0/bias": stack,
        f"{prefix}Transformer/encoder_norm/scale": torch.ones(3),
        f"{prefix}Transformer/encoderblock_extra": torch.zeros(2),
    }
    got = flax.plain(tree)
    want = {f"Transformer/encoderblock_{i}/MlpBlock_0/Dense_0/bias": stack[i] for i in range(12)}
    beside = {"Transformer/encoder_norm/scale": torch.ones(3), "Transformer/encoderblock_extra": torch.zeros(2)}
    assert not exact_differences(want | beside | {flax.ANCHOR: torch.zeros(1)}, got)


def test_a_stack_may_have_a_thousand_blocks() -> None:
    stack = {flax.ANCHOR: torch.zeros(1), "Transformer/encoderblock/LayerNorm_0/scale": torch.zeros(1024, 1)}
    assert len(flax.plain(stack)) == 1025


def test_a_stack_of_nothing_is_refused_by_name() -> None:
    """A scalar cannot be taken apart: it stays, and no rule knows it."""
    _, upstream, model = made("big_vision")
    text = refusal(upstream | {"Transformer/encoderblock/LayerNorm_0/scale": torch.zeros(())}, model)
    assert "no tensor named Transformer/encoderblock/LayerNorm_0/scale" in text


# -- whole checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_foreign", [False, True], ids=["alone", "with-foreign"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@every_wrapper
def test_a_file_of_every_wrapper_loads_to_the_truth(
    family: str, wrapper: str, dtype: str, with_foreign: bool, tmp_path: Path
) -> None:
    truth, upstream, model = made(family, dtype=dtype)
    case = Case(family, ARCH | OPTIONS[family], GEOMETRY, GEOMETRY, dtype=dtype)
    beside = state_dicts.foreign(FAMILIES[family], case) if with_foreign else {}
    path = files.write(beside | upstream, wrapper, "npz", tmp_path)

    arrays = files.read(path)
    assert all(isinstance(v, np.ndarray) for v in arrays.values())
    floats = {v.dtype for k, v in arrays.items() if k.split("/")[-1] == "kernel"}
    assert floats == {np.dtype("V2" if dtype == "bfloat16" else dtype)}
    assert any("/encoderblock/" in k for k in arrays) == wrapper.endswith("scan")
    assert detect(unwrap(arrays)) is FORMATS[family]
    assert not exact_differences(truth, load_state_dict(arrays, model))
    with np.load(path) as tree:  # a Mapping that reads an array each time it is asked
        assert not isinstance(tree, dict)
        assert not exact_differences(truth, load_state_dict(tree, model))


@every_wrapper
def test_what_stands_beside_a_prefix_is_written_beside_it(family: str, wrapper: str, tmp_path: Path) -> None:
    """Else the test above would have nothing to ignore."""
    _, upstream, _ = made(family)
    beside = state_dicts.foreign(FAMILIES[family], Case(family, ARCH | OPTIONS[family], GEOMETRY, GEOMETRY))
    alone = files.read(files.write(upstream, wrapper, "npz", tmp_path))
    arrays = files.read(files.write(beside | upstream, wrapper, "npz", tmp_path))
    prefix = wrapper.removesuffix("scan").removesuffix("+")
    inside = [k for k in arrays if prefix not in ("", "bare") and not k.startswith(prefix)]
    want = {k[1:] for k in beside if wrapper not in ("bare", "scan") and not k[1:].startswith(prefix)}
    assert arrays.keys() - alone.keys() == want == set(inside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tensors_written_and_read_are_the_same(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {
        "matrix": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype),
        "turned": torch.arange(6.0).reshape(2, 3).to(dtype).T,
        "special": torch.tensor([float("inf"), -0.0, 1e-40]).to(dtype),
        "scalar": torch.tensor(0.1).to(dtype),
    }
    read = files.read(files.write(state, "bare", "npz", tmp_path))
    assert not exact_differences(state, {k: flax.tensor(v) for k, v in read.items()})


# -- loaders that write into a model -------------------------------------------------------------------------------


class Filled(Model):
    """A model that reads a file itself, as timm's do with ``.npz``, but for the parameters it leaves untouched."""

    untouched: tuple[str, ...] = ()
    half: tuple[str, ...] = ()
    prefix: str | None = None

    @torch.no_grad()
    def load_pretrained(self, path: str, prefix: str = "") -> None:
        self.prefix = prefix
        state = load_state_dict(files.read(Path(path)), self)
        for name, parameter in self.named_parameters():
            if name in self.half:
                parameter.view(-1)[0] = state[name].view(-1)[0]
            elif name not in self.untouched:
                parameter.copy_(state[name])


class InPlace:
    """As much of a loader as a trial asks for, around :class:`Filled`."""

    device = "cpu"

    def __init__(self, folder: Path, **how: Any) -> None:
        self.folder, self.how = folder, how

    def unsupported(self, family: Family, case: Case) -> None:
        return None

    def model(self, family: Family, case: Case, geometry: Geometry, declared: Any, device: str | None = None) -> Filled:
        model = Filled(family, case.arch, geometry, declared)
        vars(model).update(self.how)
        return model

    def convert(self, family: Family, arch: Mapping[str, Any], checkpoint: Any, model: nn.Module) -> dict[str, Tensor]:
        return _load_in_place(model, files.write(dict(checkpoint), "bare", "npz", self.folder), checkpoint)


def judged(invariant: str, family: str, wrapper: str, folder: Path, **how: Any) -> Judgement:
    case = Case(family, ARCH | OPTIONS[family], GEOMETRY, GEOMETRY, wrapper=wrapper, container="npz")
    return judge(INVARIANTS[invariant], Trial(FAMILIES[family], case, InPlace(folder, **how)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_wrapper
def test_what_was_written_into_a_model_is_read_back(family: str, wrapper: str, dtype: str, tmp_path: Path) -> None:
    truth, upstream, plain = made(family, dtype=dtype)
    model = Filled(FAMILIES[family], ARCH | OPTIONS[family], GEOMETRY, GEOMETRY.img_size)
    checkpoint = wrappers.wrap(upstream, wrapper)
    path = files.write(checkpoint, "bare", "npz", tmp_path)
    state = _load_in_place(model, path, checkpoint)
    assert not exact_differences(truth, state)
    assert state.keys() == plain.state_dict().keys()
    # A prefix that a loader looks for by itself is left to it.
    assert model.prefix == ("img/" if wrapper.startswith("img/") else "")


@pytest.mark.parametrize("invariant", ["strict-load", "native-identity"])
@every_wrapper
def test_invariants_hold_for_a_loader_that_fills_a_model(
    invariant: str, family: str, wrapper: str, tmp_path: Path
) -> None:
    result = judged(invariant, family, wrapper, tmp_path)
    assert result.outcome == "pass", result


@pytest.mark.parametrize("name", ["pos_embed", "blocks.1.attn.qkv.bias", "head.bias", "norm.weight"])
@pytest.mark.parametrize("family", OPTIONS)
def test_a_parameter_left_untouched_is_missing(family: str, name: str, tmp_path: Path) -> None:
    result = judged("strict-load", family, FAMILIES[family].wrappers[0], tmp_path, untouched=(name,))
    assert result.outcome == "fail", result
    assert [(p.kind, p.tensor) for p in result.problems] == [("missing-key", name.replace(".1.", ".*."))]


def test_a_parameter_left_untouched_is_missing_though_the_model_held_the_right_values(tmp_path: Path) -> None:
    truth, upstream, _ = made("google_npz")
    model = Filled(FAMILIES["google_npz"], ARCH | OPTIONS["google_npz"], GEOMETRY, GEOMETRY.img_size)
    model.load_state_dict(truth)
    model.untouched = ("head.weight", "cls_token")
    state = _load_in_place(model, files.write(upstream, "bare", "npz", tmp_path), upstream)
    assert truth.keys() - state.keys() == {"head.weight", "cls_token"}
    assert not exact_differences({k: truth[k] for k in state}, state)


def test_a_parameter_written_in_part_has_wrong_values(tmp_path: Path) -> None:
    assert judged("strict-load", "google_npz", "bare", tmp_path, half=("norm.bias",)).outcome == "pass"
    result = judged("native-identity", "google_npz", "bare", tmp_path, half=("norm.bias",))
    assert [(p.kind, p.tensor) for p in result.problems] == [("value", "norm.bias")]


def test_what_a_model_raises_while_it_reads_is_its_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_pretrained(self, path: str, prefix: str = "") -> None:
        raise KeyError("Transformer/posembed_input/pos_embedding")

    monkeypatch.setattr(Filled, "load_pretrained", load_pretrained)
    result = judged("strict-load", "google_npz", "bare", tmp_path)
    assert [(p.kind, p.tensor) for p in result.problems] == [("raises-KeyError", "load_pretrained()")]
