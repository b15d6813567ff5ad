"""The pieces of `check`: models without memory, passes in float64, what a checkpoint is told by."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.check_files import TINY, native, tensors
from tests.small_vit import GEOMETRY
from tests.small_vit import model as small_model
from timm_conformance.check.comparison import grouped
from timm_conformance.check.detection import evidence, families_of, recognise
from timm_conformance.check.float64 import InFloat64
from timm_conformance.check.hyperparameters import hyperparameters
from timm_conformance.check.loading import Loaded, RequestedModel, captured_load, create, parameters_on_meta
from timm_conformance.check.protocol import Difference
from timm_conformance.reference import FORMATS, LoadError
from timm_conformance.reference.destination import Destination
from timm_conformance.reference.loader import Source, load_state_dict
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target
from timm_conformance.trials.problems import Problem


@pytest.fixture(scope="module", autouse=True)
def timm():
    """The timm of in-process tests."""
    Loader(parse_target(f"timm=={MODEL_RELEASE}"))


# -- models without memory ---------------------------------------------------------------------------------------------


def test_a_hollow_model_has_real_buffers_and_no_other_memory():
    """Rotary angles are made at construction, parameters are not; afterwards everything is as before."""
    model = create(RequestedModel("eva02_tiny_patch14_224.mim_in22k"))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.rope.pos_embed.abs().max() > 0
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("model", ["vit_tiny_r_s16_p8_224.augreg_in21k", "vit_small_patch16_rope_mixed_224.naver_in1k"])
def test_a_model_that_computes_while_it_is_built_is_solid(model):
    """Behind a ResNet, or with learnt frequencies: built as always."""
    assert not any(parameter.is_meta for parameter in create(RequestedModel(model)).parameters())


def test_tensors_are_handed_over_not_copied():
    """A hollow model holds the very tensors of a state dict, and what was given is kept even where it does not fit."""
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    loaded = Loaded()
    with parameters_on_meta(), captured_load(loaded):
        model = nn.Linear(2, 3)
        model.load_state_dict(state)
    assert model.weight.data_ptr() == state["weight"].data_ptr()
    with captured_load(loaded), pytest.raises(RuntimeError, match="size mismatch"):
        nn.Linear(4, 3).load_state_dict(state)
    assert loaded.state_dict["weight"] is state["weight"]
    with pytest.raises(RuntimeError):
        nn.Linear(4, 3).load_state_dict({})
    assert loaded.state_dict  # what is loaded elsewhere is nobody's business


# -- float64 -----------------------------------------------------------------------------------------------------------


def test_a_pass_in_float64_is_that_of_a_model_in_float64():
    """Bit for bit, and the model keeps its own tensors."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.Flatten(2), nn.LayerNorm(9), nn.Linear(9, 4), nn.GELU()).half()
    image = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    with torch.inference_mode():
        want = copy.deepcopy(model).double()(image)
        with InFloat64():
            got = model(image)
    assert torch.equal(got, want)
    assert model[0].weight.dtype == torch.float16


def test_stored_tensors_alone_are_nudged():
    """Not what was computed from them, which is float64 already."""
    seen = []

    def nudged(tensor):
        seen.append(tensor.shape)
        return 2 * tensor

    with InFloat64(nudged):
        out = torch.ones(3, dtype=torch.float32) * torch.ones(3, dtype=torch.float64) + torch.ones(
            1, dtype=torch.float64
        )
    assert seen == [(3,)]
    assert out.tolist() == [3, 3, 3]


# -- what a checkpoint is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("openai_clip", ["visual.class_embedding", "visual.ln_pre.weight"]),
        ("dinov2", ["cls_token", "mask_token", "patch_embed.proj.weight"]),
        ("google_npz", ["Transformer/posembed_input/pos_embedding", "embedding/kernel"]),
        ("beit3", ["beit3.*"]),
    ],
)
def test_the_evidence_is_the_keys_a_format_needs(family, keys):
    """Without any one of them it would not be recognised."""
    options = {
        "openai_clip": {"pre_norm": True},
        "dinov2": {"layer_scale": True, "num_classes": 0},
        "google_npz": {"fc_norm": False},
        "beit3": {"sub_norm": True},
    }
    state = tensors(family, TINY, **options[family])
    assert sorted(evidence(FORMATS[family], state)) == sorted(keys)


def test_a_models_own_names_may_be_all_that_tells():
    """DeiT-III's names in one of timm's Evas: no format of that module is told by them."""
    model = create(RequestedModel("vit_small_patch16_rope_ape_224.naver_in1k"))
    state = {k: torch.zeros(v.shape) for k, v in model.state_dict().items()}
    form = recognise(state, state, "vit_small_patch16_rope_ape_224.naver_in1k", "eva")
    assert form.name == "timm_native"
    assert evidence(form, state) == ["the model's own names, all of them"]
    assert families_of(form, "vit_small_patch16_rope_ape_224.naver_in1k", "eva") == []


def test_the_family_with_the_fewest_models_comes_first():
    """FlexiViT is resampled in another way than any other model in timm's names; without a tag it is told as well."""
    native_form = FORMATS["timm_native"]
    for name in ("flexivit_small.1200ep_in1k", "flexivit_small"):
        assert families_of(native_form, name, "vision_transformer")[0].name == "flexivit"
    assert families_of(native_form, "vit_base_patch16_224.mae", "vision_transformer")[0].name == "mae"
    assert families_of(native_form, "deit_tiny_patch16_224.fb_in1k", "deit")[0].name == "deit"


def test_hyperparameters_are_those_of_the_model():
    """What the names of real models stand for."""
    clip = create(RequestedModel("vit_base_patch32_clip_quickgelu_224.openai"))
    found = hyperparameters(clip, {}, {})
    assert (found["act"], found["eps"], found["num_heads"], found["mlp_ratio"]) == ("quick_gelu", 1e-5, 12, 4)
    eva = create(RequestedModel("eva02_tiny_patch14_224.mim_in22k"))
    found = hyperparameters(eva, {}, {})
    assert (found["rope"], found["ref_grid"], found["global_pool"], found["depth"]) == ("cat", 16, "avg", 12)


# -- differences -------------------------------------------------------------------------------------------------------


def test_alike_differences_are_one_and_the_worst_speaks():
    """One line for all blocks, another for another kind."""
    problems = [Problem("value", f"blocks.{n}.a", f"block {n}", float(n)) for n in (1, 3, 2)]
    problems.append(Problem("shape", "blocks.0.a", "shape"))
    assert grouped(problems, lambda p: [p.kind]) == [
        Difference("value", "blocks.*.a", 3, "block 3", 3.0, ["value"]),
        Difference("shape", "blocks.*.a", 1, "shape", None, ["shape"]),
    ]


# -- the reference -----------------------------------------------------------------------------------------------------


def test_the_reference_reads_a_checkpoint_before_it_resamples_it():
    """Its own patch, grid and tensors; fitted, it is what a load gives."""
    model = create(RequestedModel(TINY, (8, 8), (96, 160)))
    state = native()
    source = Source.of(state, model)
    assert (source.format.name, source.patch_size, source.grid_size, source.prefix_rows) == (
        "timm_native",
        (16, 16),
        (14, 14),
        1,
    )
    assert torch.equal(source.state["pos_embed"], state["pos_embed"])
    fitted, loaded = source.fitted(model), load_state_dict(state, model)
    assert fitted.keys() == loaded.keys()
    assert all(torch.equal(fitted[k], v) for k, v in loaded.items())


def test_the_reference_refuses_a_model_without_patches():
    """An image smaller than a patch."""
    model = small_model(GEOMETRY)
    model.patch_embed.grid_size = (0, 0)
    with pytest.raises(LoadError, match="grid of 0x0: its image is smaller than a patch"):
        Destination.of(model)
