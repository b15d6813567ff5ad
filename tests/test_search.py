"""Where the model is: entries and prefixes of training checkpoints, as the check command finds and ranks them."""

from __future__ import annotations

import pytest
import torch

from tests.small_vit import GEOMETRY
from timm_conformance import reference
from timm_conformance.cases.case import Case, Contents
from timm_conformance.check import without_model
from timm_conformance.check.explaining.left_out import LeftOut, plain
from timm_conformance.check.search import chosen, mappings, nameless, prefixes, search, unchunked
from timm_conformance.checkpoints import state_dicts
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES

ARCH = {
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2,
    "class_token": True,
    "reg_tokens": 0,
    "num_classes": 0,
}


def tower(family: str = "timm_native", seed: int = 1) -> dict[str, torch.Tensor]:
    """A small checkpoint in the names of a family."""
    arch = ARCH | {"num_classes": 4, "pre_norm": True} if family == "openai_clip" else ARCH
    case = Case(family, arch, GEOMETRY, GEOMETRY, contents=Contents("normal", seed))
    return state_dicts.encode(FAMILIES[family], case, state_dicts.truth(FAMILIES[family], case))


def behind(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def found(content: dict, wide: int = 8) -> list[tuple[str, str, str]]:
    """Entry, prefix and format of every tower, the likeliest first; those of width ``wide`` fit."""
    towers, _ = search(
        content,
        lambda s: reference.detect(s).name,
        lambda s, form: form != "sam" and any(t.shape == (wide,) for t in s.values()),
    )
    return [(".".join(t.opened.entry), t.opened.prefix, t.form) for t in towers]


@pytest.mark.parametrize(
    "entry", ["teacher", "student", "target_encoder", "model_state", "net", "weights.of.some.depth", "ema"]
)
def test_any_mapping_that_holds_tensors_is_an_entry(entry):
    """Not one of a list of names."""
    content: dict = tower()
    for key in reversed(entry.split(".")):
        content = {key: content, "epoch": 3}
    assert found(content) == [(entry, "", "timm_native")]


@pytest.mark.parametrize(
    "prefix",
    ["model.", "backbone.", "module.base_encoder.", "teacher.backbone.", "image_encoder.", "base_model.model.", "1."],
)
def test_any_prefix_and_chain_of_them_is_taken_away(prefix):
    """Beside tensors that have another one."""
    content = {"state_dict": behind(prefix, tower()) | {"decode_head.weight": torch.ones(2)}}
    assert found(content) == [("state_dict", prefix, "timm_native")]


def test_each_format_is_recognised_behind_a_prefix():
    """A CLIP's image tower, a DINOv2 with its mask token, and an I-JEPA, whose own names have a prefix."""
    for family in ("openai_clip", "dinov2", "ijepa"):
        assert found(behind("model.", tower(family))) == [("", "model.", FAMILIES[family].format)]


def test_a_teacher_comes_before_its_student_and_an_average_before_what_is_trained():
    """What is evaluated upstream; MoCo's base encoder comes before its momentum encoder."""
    dino = {"student": behind("backbone.", tower()), "teacher": behind("backbone.", tower(seed=2))}
    assert [f[0] for f in found(dino)] == ["teacher", "student"]
    flat = behind("student.backbone.", tower()) | behind("teacher.backbone.", tower(seed=2))
    assert [f[1] for f in found({"model": flat})] == ["teacher.backbone.", "student.backbone."]
    moco = behind("module.momentum_encoder.", tower()) | behind("module.base_encoder.", tower(seed=2))
    assert [f[1] for f in found(moco)] == ["module.base_encoder.", "module.momentum_encoder."]
    assert [f[0] for f in found({"net": tower(), "net_ema": tower(seed=2)})] == ["net_ema", "net"]


@pytest.mark.parametrize(
    ("trained", "momentum"),
    [
        ("module.encoder_q.", "module.encoder_k."),
        ("visual_encoder.", "visual_encoder_m."),
        ("encoder.", "key_encoder."),
        ("model.", "momentum_model."),
        ("net.", "net_k."),
    ],
)
def test_a_momentum_encoder_comes_after_the_trained_one(trained, momentum):
    """Whatever their order in the file."""
    content = behind(momentum, tower()) | behind(trained, tower(seed=2)) | {"queue": torch.ones(8, 4)}
    assert [f[1] for f in found({"state_dict": content})] == [trained, momentum]


FSDP, COMPILED, CHECKPOINTED = "_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module."


def wrapped(wrapper: str, *parts: str) -> dict[str, torch.Tensor]:
    """A tower whose modules of these names are wrapped."""
    state = tower()
    for part in parts:
        state = {k.replace(part, part + wrapper): v for k, v in state.items()}
    return state


@pytest.mark.parametrize(
    ("content", "prefix", "wrappers"),
    [
        (lambda: behind(FSDP, wrapped(FSDP, "blocks.0.")), FSDP, (FSDP,)),
        (lambda: wrapped(COMPILED, "blocks.0."), "", (COMPILED,)),
        (lambda: behind("module.", wrapped(CHECKPOINTED, "blocks.0.mlp.", "patch_embed.")), "module.", (CHECKPOINTED,)),
        (lambda: behind("net.", wrapped(FSDP + CHECKPOINTED, "blocks.0.")), "net.", (FSDP, CHECKPOINTED)),
        (lambda: wrapped("module.", "blocks.0."), "", ("module.",)),
        (lambda: wrapped("_fpw_module.", "blocks."), "", ("_fpw_module.",)),
        (lambda: behind("model._orig_mod.", tower()), "model._orig_mod.", ()),
        (lambda: behind("_orig_mod.module.", tower()), "_orig_mod.module.", ()),
    ],
    ids=["fsdp", "compiled", "checkpointed", "two", "ddp", "list", "prefix", "prefixes"],
)
def test_wrappers_inside_names_are_taken_out(content, prefix, wrappers):
    """Those before all names are a prefix."""
    (one,), rest = search(
        {"model": content()}, lambda s: reference.detect(s).name, lambda s, form: s.keys() == tower().keys()
    )
    assert (one.opened.prefix, one.left_out.wrappers, one.fits, rest) == (prefix, wrappers, True, [])
    assert one.opened.state.keys() == tower().keys()


def test_counters_are_left_out_and_names_stay_two():
    """A number of steps is one number; a wrapper stays where two names would become one."""
    (one,), rest = search(
        tower() | {"n_averaged": torch.tensor(3)}, lambda s: reference.detect(s).name, lambda s, form: True
    )
    assert (one.left_out.counters, rest) == (("n_averaged",), [])
    assert one.left_out.notes == [
        "left out, since it is no tensor of the model: n_averaged, the counter of torch.optim.swa_utils.AveragedModel"
    ]
    kept = {
        "layer1.module.weight": torch.ones(1),
        "n_averaged": torch.ones(3),
        "norm.weight": torch.ones(2),
        "a._orig_mod.b": torch.ones(1),
        "a.b": torch.ones(1),
    }
    assert plain(kept) == (kept, LeftOut())


def test_what_fits_the_model_comes_first():
    """A student of the width asked for, before its teacher of another."""
    content = {"teacher": {k: torch.ones(16) if v.shape == (8,) else v for k, v in tower().items()}, "student": tower()}
    assert [f[0] for f in found(content)] == ["student", "teacher"]
    assert [f[0] for f in found(content, wide=16)] == ["teacher", "student"]


def test_the_rest_is_counted_by_entry():
    """Heads beside the tower, an optimizer's moments."""
    content = {
        "model": behind("backbone.", tower()) | {"dino_head.weight": torch.ones(3)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
    }
    _, rest = search(content, lambda s: reference.detect(s).name, lambda s, form: True)
    assert [(r.entry, r.tensors) for r in rest] == [("model", 1), ("optimizer.state.0", 1)]


def test_tensors_without_names_are_found():
    """Lists of tensors at any depth; a list of other things, or of one tensor, is none."""
    lists = {"decay": 0.9, "shadow_params": list(tower().values()), "one": [torch.ones(1)], "mixed": [torch.ones(1), 2]}
    (one,) = nameless({"model": tower(), "ema": [lists]})
    assert one.text == f"{len(tower())} tensors without names under ema.0.shadow_params"
    assert one.text_beside(tower()) == f"{one.text}, in the order of model.parameters()"
    assert one.text_beside({"head.weight": torch.ones(2)}) == one.text


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(1)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("content", "held"),
    [
        (
            {"optimizer": OPTIMIZER, "epoch": 3},
            "the state of an optimizer (exp_avg, step under optimizer) and no model",
        ),
        (OPTIMIZER, "the state of an optimizer (exp_avg, step) and no model"),
        ({"shadow_params": [torch.ones(2)] * 3, "optimizer": OPTIMIZER}, "3 tensors without names under shadow_params"),
        ({"model": {"a": torch.ones(2)}, "optimizer": OPTIMIZER}, None),
        ({"epoch": 1}, None),
    ],
    ids=["optimizer", "bare", "lists", "model", "nothing"],
)
def test_a_file_without_a_model_is_told(content, held):
    """An optimizer's state, or tensors that have lost their names."""
    found = without_model.told(content)
    assert (found is None) == (held is None)
    assert found is None or held in found[0]


def test_mappings_in_lists_are_found_and_circles_end():
    """Lists are entries by number; a dict that holds itself is visited once."""
    content: dict = {"models": [tower(), {"a": torch.ones(1)}]}
    content["self"] = content
    assert [".".join(entry) for entry, _ in mappings(content)] == ["models.0", "models.1"]


def test_a_prefix_leads_to_as_many_tensors_as_a_tower_has():
    """The shortest comes first."""
    assert prefixes(behind("a.b.", tower())) == ["", "a.", "a.b.", "a.b.blocks.", "a.b.blocks.0."]


def test_blocks_in_chunks_become_one_list():
    """They are numbered through all chunks. Blocks in one list stay as they are."""
    chunked = {
        "cls_token": torch.ones(1),
        "blocks.0.0.norm1.weight": torch.ones(2),
        "blocks.1.1.norm1.weight": torch.ones(3),
    }
    assert list(unchunked(chunked) or ()) == ["cls_token", "blocks.0.norm1.weight", "blocks.1.norm1.weight"]
    assert unchunked(tower()) is None


def test_the_user_chooses():
    """By entry, by prefix, or by both; what is not there is one line that says what is."""
    content = {"student": behind("backbone.", tower()), "teacher": behind("backbone.", tower(seed=2))}
    keys, state = chosen(content, "student", "backbone.")
    assert (keys, state.keys()) == (("student",), tower().keys())
    assert chosen(content, None, "backbone.")[0] == ("student",)
    with pytest.raises(
        UserError, match=r"--entry ema: the checkpoint has no tensors there; it has some under student, teacher"
    ):
        chosen(content, "ema", None)
    with pytest.raises(
        UserError, match=r"--prefix encoder.: no tensor's name under student begins with it; names begin with"
    ):
        chosen(content, "student", "encoder.")
