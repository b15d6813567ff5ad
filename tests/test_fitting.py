"""Which registered models a checkpoint fits: the ranking, the options that it proposes, and the shapes that it compares with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from timm_conformance.check import advice
from timm_conformance.check.explaining.fitting import Fit, rank_models
from timm_conformance.check.explaining.misfits import differences
from timm_conformance.check.explaining.pairing import num_blocks
from timm_conformance.targets import architectures as registered
from timm_conformance.targets.architectures import architectures, shapes_of
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target

TINY, SMALL = "vit_tiny_patch16_224", "vit_small_patch16_224"
DINOV3 = "vit_small_patch16_dinov3.lvd1689m"
BEIT = "beit_base_patch16_224.in22k_ft_in22k"


@pytest.fixture(scope="module", autouse=True)
def timm():
    """The timm of in-process tests."""
    Loader(parse_target(f"timm=={MODEL_RELEASE}"))


def state_of(name: str, **options) -> dict[str, Tensor]:
    """The tensors of a registered model with these options, without memory."""
    made = shapes_of(name, options)
    assert made is not None
    return {k: torch.empty(v, device="meta") for k, v in made.shapes.items()}


def best(state: dict[str, Tensor], asked: str, **more) -> Fit:
    return rank_models(state, asked, **more)[0]


# -- the registry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [TINY, BEIT, "eva02_small_patch14_224", "vit_small_patch16_rope_mixed_224", "samvit_base_patch16"]
)
def test_shapes_without_memory_are_those_of_the_model(name):
    """Built with one block where blocks are alike, and whole where they are not: learnt frequencies, windows."""
    import timm

    with torch.device("meta"):
        model = timm.create_model(name)
    made = shapes_of(name)
    assert dict(made.shapes) == {k: tuple(v.shape) for k, v in model.state_dict().items()}


def test_every_registered_model_has_width_and_depth_before_it_is_built():
    """Each of the judged modules is there, and no function has to be left out."""
    import timm

    known = architectures()
    assert all(a.embed_dim and a.depth for a in known.values())
    judged = [
        n
        for n in timm.list_models()
        if timm.models.model_entrypoint(n).__module__.rpartition(".")[2] in registered.MODULES
    ]
    assert list(known) == judged


def test_a_model_that_cannot_be_built_has_no_shapes():
    assert shapes_of(TINY, {"no_such_option": 1}) is None


# -- the ranking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [TINY, BEIT, DINOV3, "eva02_small_patch14_224.mim_in22k", "swin_tiny_patch4_window7_224"]
)
def test_a_model_fits_its_own_tensors(name):
    found = best(state_of(name), name)
    assert (found.model, found.whole, found.options, found.changes, found.asked) == (name, True, {}, (), True)


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "avg"},
        {"global_pool": "map"},
        {"num_classes": 7},
        {"num_classes": 0},
        {"in_chans": 5},
        {"img_size": 96},
        {"patch_size": 8},
        {"depth": 6},
        {"mlp_ratio": 3.0},
        {"init_values": 1e-5},
        {"qk_norm": True},
        {"qkv_bias": False},
        {"proj_bias": False},
        {"pre_norm": True},
        {"no_embed_class": True},
        {"reg_tokens": 4, "no_embed_class": True},
        {"reg_tokens": 4},
        {"pos_embed": "none"},
        {"scale_attn_norm": True},
        {"scale_mlp_norm": True},
        {"final_norm": False},
        {"class_token": False, "global_pool": "avg"},
        {"global_pool": "avg", "num_classes": 3, "img_size": 96, "init_values": 1e-5},
    ],
    ids=str,
)
def test_one_option_away_from_the_model_asked_for(options):
    """The option is found, whatever other models fit as well, and it is proposed for the model asked for."""
    ranked = rank_models(state_of(TINY, **options), TINY)
    asked = next(fit for fit in ranked if fit.asked)
    assert asked.whole
    assert asked.changes
    assert asked.options.items() >= options.items()
    assert shapes_of(TINY, asked.options).shapes == shapes_of(TINY, options).shapes


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("eva02_tiny_patch14_224", {"global_pool": "token"}),
        ("eva02_tiny_patch14_224", {"num_reg_tokens": 4}),
        ("eva02_tiny_patch14_224", {"use_abs_pos_emb": False}),
        ("eva02_base_patch14_224", {"scale_mlp": False}),
        ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": False}),
        ("beit_base_patch16_224", {"img_size": 96}),
        ("deit3_small_patch16_224", {"no_embed_class": False}),
        ("samvit_base_patch16", {"img_size": 512}),
        ("swin_tiny_patch4_window7_224", {"window_size": 8, "img_size": 256}),
        ("vit_relpos_small_patch16_224", {"num_heads": 12}),
        ("vit_small_patch16_dinov3", {"num_reg_tokens": 8}),
        ("vit_base_mci_224", {"in_chans": 1}),
        ("naflexvit_base_patch16_gap", {"num_classes": 3}),
    ],
    ids=str,
)
def test_options_have_the_names_that_the_model_knows(name, options):
    asked = next(fit for fit in rank_models(state_of(name, **options), name) if fit.asked)
    assert asked.whole
    assert asked.options.items() >= options.items()


def test_layer_scale_that_a_file_lacks_is_an_option_of_the_model():
    """None would be left out by create_model, and the model would have its own."""
    name = "vit_base_patch16_radio_v3.c_radio"
    state = {k: v for k, v in state_of(name).items() if ".gamma" not in k}
    asked = next(fit for fit in rank_models(state, name) if fit.asked)
    assert asked.options == {"init_values": 0.0}
    assert shapes_of(name, asked.options).shapes.keys() == state.keys()


def test_another_pooling_of_the_model_asked_for_comes_first():
    found = best(state_of(TINY, global_pool="avg"), TINY)
    assert found.model == TINY
    assert found.options == {"global_pool": "avg"}
    assert found.call == f'timm.create_model("{TINY}", global_pool="avg")'


def test_a_file_of_another_size_names_the_model_of_that_size():
    ranked = rank_models(state_of(SMALL), TINY)
    assert ranked[0].model == SMALL
    assert ranked[0].options == {}
    width = {architectures()[fit.model.partition(".")[0]].embed_dim for fit in ranked}
    assert width == {384}


def test_a_registered_model_that_fits_as_it_is_comes_before_an_option():
    """The biases of queries and values that DINOv3's models lack are in timm's own model with them, which has the same tag."""
    ranked = rank_models(state_of("vit_small_patch16_dinov3_qkvb.lvd1689m"), DINOV3, form="dinov3")
    assert ranked[0].model == "vit_small_patch16_dinov3_qkvb.lvd1689m"
    assert ranked[0].options == {}
    assert next(fit for fit in ranked if fit.asked).options == {"qkv_bias": True}


def test_biases_that_are_zero_need_no_other_model():
    state = state_of(DINOV3)
    state |= {f"blocks.{i}.attn.{n}_bias": torch.zeros(384) for i in range(12) for n in "qv"}
    assert best(state, DINOV3).changes == ()
    state["blocks.3.attn.q_bias"][0] = 1
    assert best(state, DINOV3, limit=1).model != DINOV3


def test_what_no_option_changes_is_named_and_counted():
    """One token more, of another name: two tensors, and no model of another width."""
    state = state_of(TINY, num_classes=0)
    state |= {"pos_embed": torch.empty(1, 198, 192), "pretext_token": torch.empty(1, 1, 192)}
    ranked = rank_models(state, TINY)
    assert ranked[0].asked
    assert ranked[0].tensors == 2
    assert ranked[0].misfits == ("198 rows of positions, not 197", "pretext_token, which the model lacks")
    assert {architectures()[fit.model.partition(".")[0]].embed_dim for fit in ranked} == {192}


def test_a_tensor_that_one_block_lacks_is_named_with_its_block():
    """No option of the model is claimed from it; the other blocks have the tensors."""
    state = state_of(TINY, num_classes=0)
    gone = [k for k in state if k.startswith(("blocks.7.mlp.fc2.", "blocks.3.attn.qkv.bias", "blocks.5.attn.qkv.bias"))]
    (fit,) = rank_models({k: v for k, v in state.items() if k not in gone}, TINY, limit=1, given={"num_classes": 0})
    assert (fit.options, fit.changes, fit.tensors) == ({}, (), 4)
    assert sorted(fit.misfits) == [
        "no attn.qkv.bias in blocks 3, 5, which 10 other blocks have",
        "no mlp.fc2.bias, mlp.fc2.weight in block 7, which 11 other blocks have",
    ]


def test_a_part_that_one_block_has_beside_is_no_option():
    """Layer scale in one block alone, and biases that some layers of each block lack."""
    state = state_of(TINY, num_classes=0)
    one = best(state | {"blocks.3.ls1.gamma": torch.empty(192, device="meta")}, TINY, given={"num_classes": 0})
    assert (one.options, one.misfits) == ({}, ("blocks.3.ls1.gamma, which the model lacks",))
    fewer = {k: v for k, v in state.items() if not k.endswith("mlp.fc2.bias")}
    found = best(fewer, TINY, given={"num_classes": 0})
    assert (found.options, found.misfits) == ({}, ("no blocks.*.mlp.fc2.bias",))


def test_parts_of_pre_training_are_no_misfit():
    state = state_of(
        BEIT.partition(".")[0], use_shared_rel_pos_bias=True, use_rel_pos_bias=False, global_pool="token", num_classes=0
    )
    state |= {
        "mask_token": torch.empty(1, 1, 768),
        "lm_head.weight": torch.empty(8192, 768),
        "lm_head.bias": torch.empty(8192),
    }
    found = best(state, BEIT)
    assert found.model == BEIT
    assert found.whole
    assert found.options["use_shared_rel_pos_bias"]
    assert found.options["global_pool"] == "token"
    assert "lm_head" in found.unused[0]


def test_options_that_the_user_gives_are_not_reported():
    state = state_of(TINY, patch_size=8, num_classes=5)
    found = best(state, TINY, given={"patch_size": 8})
    assert found.options == {"num_classes": 5}
    assert best(state, TINY, given={"patch_size": 32}).options == {"num_classes": 5, "patch_size": 8}


@pytest.mark.parametrize(
    "state", [{}, {"head.weight": torch.empty(3, 192)}, {"blocks.0.norm1.weight": torch.empty(())}]
)
def test_tensors_without_a_width_fit_nothing(state):
    assert rank_models(state, TINY) == []


def test_a_width_that_no_model_has_fits_nothing():
    state = {
        k: torch.empty([100 if n == 192 else n for n in v.shape], device="meta") for k, v in state_of(TINY).items()
    }
    assert rank_models(state, TINY) == []
    assert "no model that timm 1.0.31 registers is as wide" in advice.fit_lines([], "1.0.31")[0]


def test_positions_of_which_a_model_reads_a_part_tell_no_grid():
    """RADIO's are a square of 128x128 for every image size."""
    state = state_of("vit_base_patch16_radio_v3.c_radio") | {"pos_embed": torch.empty(1, 128 * 128, 768)}
    assert best(state, "vit_base_patch16_radio_v3.c_radio", form="radio").options == {}


def test_no_model_is_named_that_is_no_nearer_than_the_one_asked_for():
    state = state_of(TINY) | {"pretext_token": torch.empty(1, 1, 192)}
    ranked = rank_models(state, TINY)
    assert len(ranked) == 3
    assert len(advice.fit_lines(ranked, "1.0.31")) == 1


def test_a_checkpoint_that_is_near_no_model_is_said_to_be():
    state = state_of(TINY) | {f"blocks.{i}.adapter{n}.weight": torch.empty(3) for i in range(12) for n in range(9)}
    (line,) = advice.fit_lines(rank_models(state, TINY), "1.0.31")
    assert line.startswith(
        f'no model that timm 1.0.31 registers is near; timm.create_model("{TINY}"): 108 tensors do not fit'
    )
    assert line.endswith("; and 6 more")


def test_hostile_shapes_end_in_a_difference_not_in_an_error():
    """Names of a model with shapes of any other number of axes."""
    state = {k: torch.empty(192) for k in state_of(TINY)}
    assert best(state, TINY).tensors > 0
    assert best({k: torch.empty(192, 1, 1, 1, 1) for k in state}, TINY).tensors > 0


def test_hostile_numbers_build_no_model():
    """Numbers of blocks, positions and windows that no model has."""
    state = state_of(TINY)
    for name in ("blocks.9999.norm1.weight", f"blocks.{'9' * 5000}.norm1.weight"):
        assert best(state | {name: torch.empty(192)}, TINY).tensors > 0
    positions = {"pos_embed": torch.empty(1, 10**10 + 1, 192, device="meta")}
    assert best(state | positions, TINY).misfits == (f"{10**10 + 1} rows of positions, not 197",)


# -- words -------------------------------------------------------------------------------------------------------------


def test_a_difference_is_one_line_whatever_it_touches():
    have = {k: tuple(v.shape) for k, v in state_of(TINY, depth=6, qk_norm=True).items()}
    found = differences(have, shapes_of(TINY), "vision_transformer")
    assert sorted(d.text for d in found) == ["6 blocks, not 12", "norms of queries and keys, the model has none"]
    assert sum(d.tensors for d in found) == 6 * 12 + 6 * 4


@pytest.mark.parametrize(
    ("names", "depth"),
    [(["blocks.0.a", "blocks.1.a"], 2), (["layers.0.blocks.1.a", "layers.1.blocks.0.a"], 3), (["norm.weight"], 0)],
)
def test_blocks_are_counted_over_stages(names, depth):
    assert num_blocks(dict.fromkeys(names, (1,))) == depth


def test_lines_say_the_call_and_the_change():
    whole = advice.fit_lines(rank_models(state_of(TINY, global_pool="avg"), TINY), "1.0.31")
    assert whole[0] == (
        f'every tensor fits timm.create_model("{TINY}", global_pool="avg") '
        "(this checkpoint: pooling by the mean, norm after it (fc_norm))"
    )
    state = state_of(TINY) | {"pretext_token": torch.empty(1, 1, 192)}
    lines = advice.fit_lines(rank_models(state, TINY), "1.0.31")
    assert lines[0] == f'timm.create_model("{TINY}"): 1 tensor does not fit: pretext_token, which the model lacks'
