"""Every fake loader is caught by the invariant meant for it; every invariant holds for the perfect loader and the reference."""

from __future__ import annotations

import re
from functools import cache, wraps
from inspect import getmembers, isfunction
from itertools import chain
from typing import NamedTuple

import pytest
import torch

from timm_conformance.cases.case import Case
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.engine.explorer import Explorer, judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS, Invariant
from timm_conformance.ledger.entries import Ledger
from timm_conformance.targets.loader import Convert, Loader
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.trial import Trial

from . import fakes


class Fake(NamedTuple):
    """One row: a loader, the family it shows on, the invariant meant for it, and others it cannot help breaking."""

    name: str
    family: str
    meant: str
    also: str = ""


# Agreement with the reference breaks with nearly everything, and loads by create_model end in the same tensors.
_ALWAYS = {"reference-agreement", "create-model", "trained-tensors-used"}

_NATIVE = "native-identity native-forward"
_PI = "pi-adjoint pi-normal-equations no-early-return"
_NAN = f"{_PI} linear transpose-symmetric constant-preserved"
_ROWS = "prefix-tokens-kept constant-preserved transpose-symmetric no-early-return"

FAKES = (
    # names and shapes
    Fake("returns_early", "openai_clip", "no-early-return", "strict-load transpose-symmetric"),
    Fake("resamples_the_kernel_only", "openai_clip", "strict-load", "no-early-return transpose-symmetric"),
    Fake("bilinear_for_upstream", "openai_clip", "no-early-return", _PI),
    Fake("drops_a_bias", "openai_clip", "strict-load", "native-identity"),
    Fake("keeps_the_mask_token", "dinov2", "strict-load", "native-identity"),
    Fake("raises_on_linear_kernels", "legacy_linear", "strict-load"),
    Fake("returns_nothing", "openai_clip", "strict-load"),
    Fake("names_nothing", "openai_clip", "strict-load"),
    Fake("ignores_wrappers", "openai_clip", "wrapper-transparent", "strict-load"),
    Fake("opens_one_wrapper", "openai_clip", "wrapper-transparent", "strict-load"),
    Fake("passes_foreign_keys", "openai_clip", "foreign-keys-ignored"),
    Fake("takes_text_for_image", "openai_clip", "foreign-keys-ignored"),
    Fake("numbers_blocks_as_met", "openai_clip", "order-independent"),
    Fake("takes_the_first_norm", "openai_clip", "order-independent", "foreign-keys-ignored"),
    # conversions
    Fake("fuses_qkv_in_wrong_order", "openai_clip", "native-identity", _NATIVE),
    Fake("swaps_norms", "openai_clip", "native-identity", _NATIVE),
    Fake("transposes_the_head", "openai_clip", "native-identity", _NATIVE),
    Fake("zeroes_a_bias", "openai_clip", "native-identity", _NATIVE),
    Fake("rounds_to_bfloat16", "dinov2", "native-identity", f"{_NATIVE} {_NAN} prefix-tokens-kept"),
    Fake("swaps_gate_and_value", "dinov2_swiglu", "native-forward", _NATIVE),
    Fake("forgets_the_class_row", "dinov2_registers", "prefix-tokens-kept", _NATIVE),
    Fake("adds_position_to_registers", "dinov2_registers", "prefix-tokens-kept", _NATIVE),
    # the patch kernel
    Fake("bilinear_kernel", "openai_clip", "pi-adjoint", _PI),
    Fake("antialias_off_kernel", "openai_clip", "pi-adjoint", _PI),
    Fake("kernel_like_an_image", "openai_clip", "pi-adjoint", f"{_PI} constant-preserved"),
    Fake("kernel_by_the_way_back", "openai_clip", "pi-adjoint", _PI),
    Fake("kernel_of_larger_norm", "openai_clip", "pi-adjoint", _PI),
    Fake("transposes_the_kernel", "openai_clip", "pi-adjoint", f"{_PI} constant-preserved"),
    Fake("wrong_rank_cutoff", "openai_clip", "pi-normal-equations", f"{_NAN} finite"),
    Fake("averages_a_shrunk_kernel", "openai_clip", "pi-normal-equations", _PI),
    Fake("kernel_by_column_rule", "openai_clip", "transpose-symmetric", _PI),
    Fake("asks_about_the_width", "openai_clip", "transpose-symmetric", "strict-load no-early-return"),
    # the position grid
    Fake("bilinear_grid", "openai_clip", "reference-agreement", "no-early-return"),
    Fake("antialias_off_grid", "openai_clip", "reference-agreement", "no-early-return"),
    Fake("nearest_grid", "openai_clip", "reference-agreement", "no-early-return"),
    Fake("zero_padded_grid", "openai_clip", "constant-preserved", "no-early-return"),
    Fake("scaled_grid", "openai_clip", "constant-preserved", "no-early-return"),
    Fake("clipped_grid", "openai_clip", "linear", "no-early-return"),
    Fake("cached_grid", "openai_clip", "linear", "no-early-return constant-preserved transpose-symmetric"),
    Fake("swaps_height_and_width", "openai_clip", "transpose-symmetric", "no-early-return"),
    Fake("grid_by_column_rule", "openai_clip", "transpose-symmetric", "no-early-return"),
    Fake("refuses_high_grids", "openai_clip", "transpose-symmetric", "strict-load"),
    Fake("assumes_a_square_grid", "timm_native", "idempotent", f"{_NATIVE} no-early-return transpose-symmetric"),
    Fake("interpolates_the_class_row", "openai_clip", "prefix-tokens-kept", _ROWS),
    Fake("resamples_the_class_token", "openai_clip", "prefix-tokens-kept", "transpose-symmetric no-early-return"),
    # relative position tables
    Fake(
        "resizes_tables_that_fit",
        "beit",
        "rel-pos-identity",
        f"{_NATIVE} idempotent no-early-return linear device-kept",
    ),
    Fake("tables_like_images", "beit", "rel-pos-neighbours", "rel-pos-agreement no-early-return"),
    Fake("tables_by_column_rule", "beit", "rel-pos-transposed", "rel-pos-neighbours rel-pos-agreement no-early-return"),
    Fake(
        "asks_about_the_width_of_windows",
        "beit",
        "rel-pos-transposed",
        "strict-load rel-pos-agreement no-early-return transpose-symmetric",
    ),
    Fake("nearest_offsets", "beit", "rel-pos-agreement", "no-early-return"),
    Fake("flattens_resized_tables", "swin", "strict-load", "rel-pos-agreement no-early-return"),
    Fake("loses_the_class_rows", "beit", "rel-pos-class-rows", "rel-pos-agreement no-early-return"),
    # attention
    Fake("keeps_rope_buffers", "eva02", "rope-buffers-ignored", "strict-load native-identity idempotent"),
    Fake("forgets_the_prefix_rows", "naflex_vit", "naflex-classic-forward", f"{_NATIVE} prefix-tokens-kept"),
    Fake("swaps_split_projections", "eva02", "qkv-forms-agree", f"{_NATIVE} idempotent repeatable"),
    # manners
    Fake("pops_from_its_input", "dinov2", "input-unmodified"),
    Fake("edits_in_place", "dinov2_registers", "input-unmodified", "repeatable"),
    Fake("reorders_its_input", "openai_clip", "input-unmodified"),
    Fake("remembers_the_checkpoint", "openai_clip", "repeatable"),
    Fake("converts_again", "openai_clip", "idempotent"),
    Fake("casts_to_float32", "openai_clip", "dtype-kept", "native-identity"),
    Fake("head_bias_in_float32", "openai_clip", "dtype-kept"),
    Fake("head_bias_on_cpu", "openai_clip", "device-kept", "ambient-state-ignored"),
    Fake("moves_to_cpu", "openai_clip", "device-kept"),
    Fake("through_numpy", "openai_clip", "device-kept", "strict-load"),
    Fake("overflows_in_half", "openai_clip", "finite", f"{_NATIVE} {_NAN} prefix-tokens-kept"),
    Fake("divides_by_the_norm", "openai_clip", "finite", _NAN),
    Fake("works_in_the_default_dtype", "openai_clip", "ambient-state-ignored", "create-model-ignores-ambient-state"),
    Fake("resets_torch_under_create_model", "openai_clip", "create-model-ignores-ambient-state"),
    Fake("lends_the_model_a_tensor", "openai_clip", "shares-no-memory", "create-model-shares-no-memory"),
    Fake("lends_a_tensor_under_create_model", "openai_clip", "create-model-shares-no-memory"),
    # what does not fit
    Fake("fills_what_is_missing", "openai_clip", "refuses-incomplete"),
    Fake("drops_what_is_left_over", "openai_clip", "refuses-misfits"),
    Fake("reshapes_what_does_not_fit", "openai_clip", "refuses-misfits"),
    Fake("writes_before_it_refuses", "openai_clip", "untouched-after-refusal"),
    Fake("borrows_a_tensor", "openai_clip", "untouched-after-refusal"),
    # one format's own
    Fake("fuses_qkv_in_wrong_order", "beit3", "native-identity", _NATIVE),
    Fake("fuses_projections_as_met", "beit3", "order-independent", "refuses-incomplete"),
    Fake("skips_one_row_at_either_end", "beit3", "native-identity", f"{_NATIVE} {_ROWS}"),
    Fake("swaps_fc1_and_fc3", "aimv2", "native-forward", _NATIVE),
    Fake("takes_a_register_for_the_class_token", "radio", "native-identity", f"{_NATIVE} prefix-tokens-kept"),
    Fake("window_from_the_centre", "radio", "reference-agreement"),
    Fake("window_without_a_square", "radio", "reference-agreement"),
    Fake("aligns_no_corners", "radio", "reference-agreement"),
    Fake("ignores_the_filter_asked_for", "flexivit", "pi-adjoint", _PI),
    Fake("keeps_the_out_kernel_as_stored", "google_npz", "native-identity", _NATIVE),
    Fake("reads_scanned_blocks_in_reverse", "big_vision", "wrapper-transparent", _NATIVE),
    Fake("knows_no_image_prefix", "big_vision", "wrapper-transparent", "strict-load"),
    Fake("swaps_running_statistics", "mobileclip", "native-identity", _NATIVE),
    Fake("takes_the_target_encoder", "ijepa", "native-identity", f"{_NATIVE} {_NAN}"),
    Fake("swaps_layer_scales", "deit3", "native-identity", _NATIVE),
    Fake("swaps_the_two_tokens", "deit_distilled", "native-identity", f"{_NATIVE} prefix-tokens-kept idempotent"),
    # the path a user walks
    Fake("differs_under_create_model", "openai_clip", "create-model"),
    Fake("takes_what_fits", "openai_clip", "trained-tensors-used", "refuses-incomplete refuses-misfits"),
)

# A smoke run is small: a mistake that few cases show, or that is judged on few, may need another one.
_SEEDS = range(20)


def _undisturbed(convert: Convert) -> Convert:
    """A fake without the ambient states that its own arithmetic would not bear: the reference, which it calls, guards its own."""

    @wraps(convert)
    def alone(*args, **kwargs):
        with torch.autocast("cpu", enabled=False), torch.device("cpu"):
            return convert(*args, **kwargs)

    return alone


@cache
def loader(name: str) -> Loader:
    """The reference, or a fake as a target; building models takes half the time, so fakes share the reference's."""
    if name == "reference":
        return Loader(parse_target(name))
    fake = Loader(parse_target(f"loader:tests.fakes:{name}"))
    fake.function = _undisturbed(fake.function)
    fake._build = loader("reference")._build
    return fake


@cache
def smoke_cases(family: str, seed: int) -> tuple[Case, ...]:
    """The cases of a smoke run, drawn by the engine."""
    drawn: list[Case] = []

    def check(trial: Trial):
        drawn.append(trial.case)
        return ()

    recorder = Invariant("recorder", "tests", "", "", (), lambda trial: None, check)
    Explorer(loader("reference"), Ledger(), [recorder], Drawing(PROFILES["smoke"], seed)).explore(FAMILIES[family])
    return tuple(drawn)


def broken(fake: Fake, invariants: list[Invariant], seed: int) -> dict[str, set[str]]:
    """The invariants that fail over a smoke run's cases, with the kinds of their problems; an error is our mistake."""
    found: dict[str, set[str]] = {}
    for case in smoke_cases(fake.family, seed):
        trial = Trial(FAMILIES[fake.family], case, loader(fake.name))
        for invariant in invariants:
            result = judge(invariant, trial)
            assert result.outcome != "error", f"{invariant.name} on {case.describe()}: {result.reason}"
            if result.outcome == "fail":
                found.setdefault(invariant.name, set()).update(p.kind for p in result.problems)
    return found


@pytest.mark.parametrize("fake", FAKES, ids=lambda fake: f"{fake.name}-{fake.family}")
def test_fake_is_caught_by_the_invariant_meant_for_it(fake: Fake) -> None:
    mine = [i for i in INVARIANTS.values() if i.judges(loader(fake.name).target)]
    judged = [i for i in mine if i.name == fake.meant or i.name not in _ALWAYS]
    found = broken(fake, judged, seed=0)
    assert found.keys() <= {fake.meant, *fake.also.split()}
    meant = INVARIANTS[fake.meant]
    later = (broken(fake, [meant], seed) for seed in _SEEDS if seed)
    assert any(fake.meant in each for each in chain([found], later))


def _of_each_kind() -> list[str]:
    """The first family of each timm module and way of loading, and all that are resampled in a way of their own."""
    arch = {"align_corners": True}
    kinds = {(f.module, f.in_place, bool(f.classic), f.in_no_release): f.name for f in reversed(FAMILIES.values())}
    own = {f.name for f in FAMILIES.values() if f.resampling(arch) is not None}
    return [name for name in FAMILIES if name in own.union(kinds.values())]


@pytest.mark.parametrize(
    ("name", "family"),
    [*(("perfect", f) for f in _of_each_kind()), ("perfect_without_options", "transformers_siglip2_bare")],
)
def test_every_invariant_holds_for_a_correct_loader(name: str, family: str) -> None:
    """For one that a user wrote; the gate judges the reference itself, on every family."""
    explorer = Explorer(loader(name), Ledger(), INVARIANTS.values(), Drawing(PROFILES["smoke"], 0, focused=False))
    verdicts = explorer.explore(FAMILIES[family])
    assert [v.invariant for v in verdicts] == list(INVARIANTS)
    wrong = {v.invariant: v.reason or v.failures for v in verdicts if v.verdict not in ("pass", "not-applicable")}
    assert not wrong


def test_every_invariant_has_a_fake() -> None:
    """But those that judge timm alone: test_doors.py, test_in_place.py and test_created.py change timm itself."""
    assert {fake.meant for fake in FAKES} == {name for name, item in INVARIANTS.items() if not item.timm_alone}


def test_every_fake_is_in_the_table() -> None:
    loaders = {n for n, f in getmembers(fakes, isfunction) if f.__module__.startswith("tests.fakes") and n[0] != "_"}
    assert loaders == {"perfect", "perfect_without_options", "loader_with", *(fake.name for fake in FAKES)}


@pytest.mark.parametrize(
    ("name", "kind"), [("asks_about_the_width", "shape"), ("refuses_high_grids", "raises-RuntimeError")]
)
def test_what_keeps_the_flipped_load_alone_from_being_compared_is_a_failure(name: str, kind: str) -> None:
    symmetric = INVARIANTS["transpose-symmetric"]
    trials = [Trial(FAMILIES["openai_clip"], case, loader(name)) for case in smoke_cases("openai_clip", 0)]
    failed = {p.kind for trial in trials for p in judge(symmetric, trial).problems}
    assert failed == {kind}
    strict = INVARIANTS["strict-load"]
    assert all(judge(symmetric, t).outcome == "blocked" for t in trials if judge(strict, t).problems)


@pytest.mark.parametrize(
    ("name", "kind"), [("raises_on_linear_kernels", "raises-RuntimeError"), ("returns_nothing", "raises-TypeError")]
)
def test_exception_is_a_failure_of_the_loader(name: str, kind: str) -> None:
    fake = next(f for f in FAKES if f.name == name)
    assert broken(fake, list(INVARIANTS.values()), seed=1) == {"strict-load": {kind}, "create-model": {kind}}


def test_a_refusal_counts_only_where_the_whole_checkpoint_is_taken() -> None:
    """The invariants about damaged checkpoints do not hold for a loader that refuses everything."""
    refuses = [i for i in INVARIANTS.values() if i.name.startswith("refuses-")]
    assert len(refuses) == 2
    for case in smoke_cases("openai_clip", 0):
        trial = Trial(FAMILIES["openai_clip"], case, loader("returns_nothing"))
        outcomes = [judge(invariant, trial).outcome for invariant in refuses]
        assert sorted(outcomes) == ["blocked", "not-applicable"] or trial.undecidable


def test_failure_is_shrunk_to_a_tiny_case() -> None:
    strict = INVARIANTS["strict-load"]
    explorer = Explorer(loader("returns_early"), Ledger(), [strict], Drawing(PROFILES["smoke"], seed=0))
    (verdict,) = explorer.explore(FAMILIES["openai_clip"])
    assert verdict.verdict == "fail"
    failure = next(f for f in verdict.failures if f.tensor == fakes.KERNEL)
    (ph, pw), (qh, qw) = failure.case.source.patch_size, failure.case.destination.patch_size
    assert max(ph * pw, qh * qw) <= 16
    assert failure.case.source.tokens <= 4
    assert failure.case.arch["depth"] == 1
    assert failure.case.arch["embed_dim"] == 8
    assert (failure.case.contents.kind, failure.case.dtype, failure.case.wrapper) == ("normal", "float32", "bare")
    assert failure.fingerprint.startswith("strict-load:openai_clip:size-mismatch:patch_embed.proj.weight[")
    assert not re.search(r"\d", failure.fingerprint)


def test_shrunk_case_still_fails() -> None:
    invariant = INVARIANTS["constant-preserved"]
    explorer = Explorer(loader("scaled_grid"), Ledger(), [invariant], Drawing(PROFILES["smoke"], seed=0))
    (verdict,) = explorer.explore(FAMILIES["openai_clip"])
    assert verdict.failures
    for failure in verdict.failures:
        result = judge(invariant, Trial(FAMILIES["openai_clip"], failure.case, loader("scaled_grid")))
        assert failure.kind in {p.kind for p in result.problems}
