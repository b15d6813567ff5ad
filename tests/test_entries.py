"""A checkpoint as training scripts save it: which entry the reference reads, and without which prefix."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small_vit import facts_of, image_encoder, model, refusal
from timm_conformance import reference
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.checkpoints import state_dicts
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.families import READ, Family
from timm_conformance.reference import detect, open_checkpoint
from timm_conformance.reference.loader import Source
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target

GEOMETRY = Geometry((4, 4), (2, 2))
MODULE, COMPILED = "module.", "_orig_mod."
PREFIXES = ("", MODULE, COMPILED, MODULE + COMPILED, COMPILED + MODULE, MODULE * 2)
# Entries from the first to the last that is chosen where several hold tensors.
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
NESTED = (("state_dict", "model"), ("model", "state_dict"), ("model", "state_dict_ema"), ("module", "model_ema"))
# Formats whose names, with ``module.`` before them or after it, are those of another format.
TWINS = {
    "openai_clip": "openai_clip_ddp",
    "openclip_trunk": "openclip_trunk_ddp",
    "ijepa": "timm_native",
}
FILES = [family for family in READ.values() if not family.in_place]


def saved(state: dict[str, Any], entry: tuple[str, ...] = (), prefix: str = "") -> dict[str, Any]:
    """``state`` in nested entries. An EMA has the trained weights beside it, and these have an EMA that is None."""
    held: dict[str, Any] = {prefix + key: tensor for key, tensor in state.items()}
    others = {key: tensor + 1 for key, tensor in held.items()}
    for name in reversed(entry):
        beside = dict.fromkeys(("state_dict", "model"), others) if "ema" in name else {"state_dict_ema": None}
        held = {"epoch": 3, **beside, "model_ema": None, name: held}
    return held


def upstream(family: Family) -> tuple[Case, dict[str, Tensor]]:
    """A case of a family and its tensors, text tower and all where there is one."""
    case = next(case for drawn in Drawing(PROFILES["smoke"], 0).cases(family).values() for case in drawn)
    state = state_dicts.encode(family, case, state_dicts.truth(family, case))
    return case, state_dicts.foreign(family, case) | state


@pytest.mark.parametrize("family", FILES, ids=[family.name for family in FILES])
def test_every_entry_and_prefix_gives_the_tensors_of_the_bare_dict(family: Family) -> None:
    case, bare = upstream(family)
    form = detect(bare)
    facts = facts_of(case.arch, case.source)
    want = form.decode(bare, facts)
    chains = [(), *((name,) for name in ENTRIES), *NESTED]
    for entry, prefix in product(chains, PREFIXES):
        opened = open_checkpoint(saved(bare, entry, prefix))
        assert opened.entry == entry
        assert {opened.prefix + k: id(v) for k, v in opened.state.items()} == {
            prefix + k: id(v) for k, v in bare.items()
        }
        found = detect(opened.state)
        if form.name in TWINS:
            assert found.name in (form.name, TWINS[form.name])
        else:
            assert (found.name, opened.prefix) == (form.name, prefix)
        got = found.decode(opened.state, facts)
        assert got.keys() == want.keys()
        assert all(torch.equal(got[k], tensor) for k, tensor in want.items())


@pytest.mark.parametrize("first", range(len(ENTRIES) - 1))
def test_of_several_entries_timms_first_is_read(first: int) -> None:
    own, _ = image_encoder(GEOMETRY)
    others = {key: tensor + 1 for key, tensor in own.items()}
    held = {name: own if n == first else others for n, name in enumerate(ENTRIES) if n >= first}
    for order in (list(held), list(reversed(held))):
        opened = open_checkpoint({name: held[name] for name in order})
        assert opened.entry == (ENTRIES[first],)
        assert opened.state["norm.weight"] is own["norm.weight"]


def test_the_context_encoder_of_ijepa_alone_keeps_its_prefix() -> None:
    own, _ = image_encoder(GEOMETRY)
    prefixed = {f"module.{key}": tensor for key, tensor in own.items()}
    for wrapped, entry, prefix, name in (
        ({"encoder": prefixed}, ("encoder",), "", "ijepa"),
        ({"model": {"encoder": saved(prefixed, prefix=MODULE)}}, ("model", "encoder"), MODULE, "ijepa"),
        ({"encoder": own}, ("encoder",), "", "timm_native"),
        ({"encoder": {"model": prefixed}}, ("encoder", "model"), MODULE, "timm_native"),
        (prefixed, (), MODULE, "timm_native"),
        ({"model": prefixed}, ("model",), MODULE, "timm_native"),
    ):
        opened = open_checkpoint(wrapped)
        assert (opened.entry, opened.prefix, detect(opened.state).name) == (entry, prefix, name)


def test_a_prefix_on_some_names_only_is_removed_from_these() -> None:
    """As timm does: ``clean_state_dict`` looks at each name by itself."""
    own, _ = image_encoder(GEOMETRY)
    chain = MODULE + COMPILED
    some = {chain + k if n % 3 == 0 else MODULE + k if n % 3 == 1 else k: v for n, (k, v) in enumerate(own.items())}
    opened = open_checkpoint(some)
    assert opened.prefix == chain
    assert {k: id(v) for k, v in opened.state.items()} == {k: id(v) for k, v in own.items()}


def test_names_that_would_become_one_keep_their_prefix() -> None:
    """timm takes whichever stands last. No one can say which is meant."""
    own, _ = image_encoder(GEOMETRY)
    twice = own | {"module.norm.weight": own["norm.weight"] + 1}
    assert open_checkpoint(twice) == reference.Opened(twice)
    assert "unexpected: module.norm.weight" in refusal(twice, model(GEOMETRY))


def test_prefixes_end_somewhere() -> None:
    own, _ = image_encoder(GEOMETRY)
    assert open_checkpoint({MODULE * 8 + k: v for k, v in own.items()}).prefix == MODULE * 8
    opened = open_checkpoint({MODULE * 9 + k: v for k, v in own.items()})
    assert opened.prefix == MODULE * 8
    assert all(k.startswith(MODULE) for k in opened.state)


def test_a_source_and_a_refusal_say_what_was_read() -> None:
    own, _ = image_encoder(GEOMETRY)
    wrapped = saved(own, ("state_dict_ema",), COMPILED)
    source = Source.of(wrapped, model(GEOMETRY))
    assert (source.entry, source.prefix) == (("state_dict_ema",), COMPILED)
    assert Source.of(own, model(GEOMETRY)).prefix == ""
    lacking = saved({k: v for k, v in own.items() if k != "norm.bias"}, ("model", "state_dict_ema"), COMPILED)
    said = "(under model.state_dict_ema, behind _orig_mod.)"
    assert refusal(lacking, model(GEOMETRY)) == f"checkpoint does not fit the model: missing: norm.bias {said}"
    assert refusal({"model": {"a": own["norm.bias"]}}, model(GEOMETRY)).endswith("keys seen: a (under model)")
    assert refusal({"a": own["norm.bias"]}, model(GEOMETRY)).endswith("keys seen: a")


# Models of timm's own, of every class that the reference reads.
REGISTERED = (
    "vit_tiny_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "vit_relpos_small_patch16_224",
    "samvit_base_patch16",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "naflexvit_base_patch16_gap",
)


@pytest.mark.parametrize("name", REGISTERED)
def test_a_model_of_timms_own_is_recognised_under_any_prefix(name: str) -> None:
    Loader(parse_target("timm==1.0.31"))
    import timm

    with torch.device("meta"):
        own = timm.create_model(name).state_dict()
    for names in ((), own.keys()):
        want = detect(own, names)
        for entry, prefix in product([(), ("model",), ("state_dict_ema",)], PREFIXES):
            opened = open_checkpoint(saved(own, entry, prefix))
            assert (opened.entry, opened.prefix) == (entry, prefix)
            assert opened.state.keys() == own.keys()
            assert detect(opened.state, names) is want
