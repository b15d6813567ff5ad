"""Files as training scripts save them: how they are written and drawn, what a release reads of them, and how that is judged."""

from __future__ import annotations

import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from packaging.version import Version

from tests.small_vit import ARCH, OPTIONS, geometry_of
from timm_conformance import reference
from timm_conformance.cases.case import SAVED_ENTRIES, SAVED_PREFIXES, Case, Contents
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.cases.regimes import regimes
from timm_conformance.checkpoints import files
from timm_conformance.drawing.catalogue import models_of
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.engine.judging import Judgement, judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.targets.file_reader import reads_saved
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.problems import exact_differences
from timm_conformance.trials.trial import Trial

NEWEST = "timm==1.0.31"
DRAWING = Drawing(PROFILES["smoke"], 0)
FORMS = [f"{e}+{p}".strip("+") for e, p in product(("", *SAVED_ENTRIES), ("", *SAVED_PREFIXES))][1:]


@cache
def loader(target: str) -> Loader:
    return Loader(parse_target(target))


def case_of(family: str, saved: str, num_classes: int | None = None) -> Case:
    geometry = geometry_of(family)
    return Case(
        family,
        ARCH | OPTIONS.get(family, {}),
        geometry,
        geometry,
        container="pth" if "pth" in FAMILIES[family].containers else FAMILIES[family].containers[0],
        model_name=models_of(FAMILIES[family])[0].name,
        num_classes=num_classes,
        saved=saved,
    )


def judged(invariant: str, family: str, saved: str, target: str, num_classes: int | None = None) -> Judgement:
    return judge(INVARIANTS[invariant], Trial(FAMILIES[family], case_of(family, saved, num_classes), loader(target)))


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", FORMS)
def test_every_form_is_written_and_read_by_the_reference(saved: str, tmp_path: Path) -> None:
    case, state = case_of("openai_clip", saved), {"visual.a": torch.zeros(2), "visual.b": torch.ones(1)}
    held = files.read(files.write_case(state, case, tmp_path))
    opened = reference.open_checkpoint(held)
    assert ".".join(opened.entry) + ("+" if opened.entry and opened.prefix else "") + opened.prefix == saved
    assert not exact_differences(state, opened.state)
    assert ("saved in" in case.describe(), "names behind" in case.describe()) == (
        bool(case.saved_entry),
        bool(case.saved_prefix),
    )
    assert Case.from_json(case.to_json()) == case


@pytest.mark.parametrize(
    ("entry", "empty", "passed_over"),
    [
        ("state_dict_ema", set(), {"model_ema", "state_dict", "model"}),
        ("model_ema", {"state_dict_ema"}, {"state_dict", "model"}),
        ("state_dict", {"state_dict_ema", "model_ema"}, {"model"}),
        ("model", {"state_dict_ema", "model_ema"}, set()),
    ],
)
def test_beside_an_entry_lie_others_that_are_empty_or_passed_over(
    entry: str, empty: set[str], passed_over: set[str], tmp_path: Path
) -> None:
    state = {"a": torch.zeros(2)}
    held = files.read(files.write_case(state, case_of("openai_clip", f"{entry}+module."), tmp_path))
    assert held[entry]["module.a"].tolist() == [0, 0]
    assert held.keys() == {"epoch", entry} | empty | passed_over
    assert all(held[name] is None for name in empty)
    assert all(held[name]["module.a"].tolist() == [1, 1] for name in passed_over)


def test_the_names_in_a_safetensors_file_have_the_prefix(tmp_path: Path) -> None:
    case = replace(case_of("openai_clip", "_orig_mod."), container="safetensors")
    assert files.read(files.write_case({"a": torch.zeros(2)}, case, tmp_path)).keys() == {"_orig_mod.a"}


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_a_third_of_the_files_is_saved_by_a_training_script() -> None:
    families = list(FAMILIES.values())[::2]
    found = [case for family in families for cases in DRAWING.cases(family).values() for case in cases]
    written = [case for case in found if case.container != "memory" and not case.asked]
    saved = [case for case in written if case.saved]
    assert 0.2 < len(saved) / len(written) < 0.5
    assert not any(case.saved for case in found if case not in written)
    assert not any(case.saved_entry for case in saved if case.container == "safetensors")
    forms = {form for case in saved for form in (*case.saved_entry, case.saved_prefix)}
    assert forms >= {"state_dict_ema", "model_ema", "module", *SAVED_PREFIXES}
    met = frozenset().union(*(regimes(case, 1) for case in saved))
    assert {"saved-ema", "saved-module", "saved-nested", "saved-prefixed", "saved-compiled"} <= met


def test_a_family_without_pth_files_has_no_such_regime() -> None:
    reached = {name for name, family in FAMILIES.items() if family.reaches("saved-ema", "create-model")}
    assert reached == {name for name, family in FAMILIES.items() if "pth" in family.containers}


# -- what a release reads ----------------------------------------------------------------------------------------------

# The first release that reads a form; "" where none does.
READ_SINCE = {
    "state_dict_ema": "0.9.0",
    "model_ema+module.": "0.9.0",
    "module.": "0.9.0",
    "model+_orig_mod.": "1.0.8",
    "module._orig_mod.": "1.0.8",
    "_orig_mod.module.": "1.0.31",
    "state_dict.model": "0.9.0",
    "state_dict.model+module.": "",
    "module": "",
    "model_ema.module": "",
}


@pytest.mark.parametrize(("saved", "since"), READ_SINCE.items())
def test_a_form_is_read_since_a_release(saved: str, since: str) -> None:
    case, family = case_of("openai_clip", saved), FAMILIES["openai_clip"]
    for release in ("0.9.0", "0.9.16", "1.0.7", "1.0.8", "1.0.30", "1.0.31"):
        wanted = bool(since) and Version(release) >= Version(since)
        assert reads_saved(family, case, Version(release)) is wanted, release


@pytest.mark.parametrize(
    ("family", "saved", "read"),
    [
        ("beit", "module", True),  # its filter function opens the entry
        ("eva", "model_ema.module", True),
        ("mobileclip", "state_dict_ema", True),
        ("sam", "state_dict.model", False),
        ("openai_clip_ddp", "model_ema", True),  # the names' own prefix goes as well
        ("openai_clip_ddp", "_orig_mod.", True),
        ("openai_clip_ddp", "module.", True),  # and stays here
        ("ijepa", "state_dict_ema", True),
        ("ijepa", "module.", False),  # which nobody reads outside of `encoder`
    ],
)
def test_the_familys_own_function_opens_what_lies_deeper(family: str, saved: str, read: bool) -> None:
    assert reads_saved(FAMILIES[family], case_of(family, saved), Version("1.0.31")) is read


@pytest.mark.parametrize("family", ["openai_clip", "openai_clip_ddp", "beit", "swin", "ijepa", "sam"])
def test_the_newest_release_reads_exactly_what_is_said(family: str) -> None:
    """Where it loads a file strictly, every tensor is that of the entry which the reference reads."""
    (native,) = (cases[0] for stratum, cases in DRAWING.cases(FAMILIES[family]).items() if stratum.name == "native")
    native = replace(native, container="pth", declared="true", in_chans=None, num_classes=None, asked={}, door="")
    for saved in FORMS:
        trial = Trial(FAMILIES[family], replace(native, saved=saved), loader(NEWEST))
        loaded = not isinstance(trial.created_model.outcome, Exception)
        read = loader(NEWEST).reads_saved(FAMILIES[family], trial.case)
        # CLIP's names behind `module.` are a format of their own, which needs no reader.
        assert loaded is read or (family, saved[-7:]) == ("openai_clip", "module."), saved
        judging = "create-model" if read else "trained-tensors-used"
        assert judge(INVARIANTS[judging], trial).outcome == "pass", saved


# -- how it is judged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", FORMS)
def test_the_reference_reads_every_file(saved: str) -> None:
    assert judged("create-model", "deit", saved, "reference").outcome == "pass"
    assert judged("trained-tensors-used", "deit", saved, "reference", num_classes=7).outcome == "pass"


@pytest.mark.parametrize("saved", ["state_dict_ema", "model_ema+module."])
def test_a_loader_that_prefers_the_trained_weights_is_told(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loader(NEWEST)
    builder = sys.modules["timm.models._builder"]
    read = builder.load_state_dict
    monkeypatch.setattr(builder, "load_state_dict", lambda path: read(path, use_ema=False))
    assert {p.kind for p in judged("create-model", "deit", saved, NEWEST).problems} == {"value"}


def test_a_file_that_a_release_reads_must_load(monkeypatch: pytest.MonkeyPatch) -> None:
    loader(NEWEST)
    monkeypatch.setattr(sys.modules["timm.models._helpers"], "clean_state_dict", dict)
    problems = judged("create-model", "deit", "module.", NEWEST).problems
    assert {p.kind for p in problems} == {"missing-key", "unexpected-key"}


@pytest.mark.parametrize(("classes", "outcome"), [(None, "pass"), (7, "fail")])
def test_a_file_that_a_release_does_not_read_is_refused_or_a_failure(classes: int | None, outcome: str) -> None:
    """With other classes no load is strict, and the model holds nothing of the file."""
    found = [judged(name, "deit", "module", NEWEST, classes) for name in ("create-model", "trained-tensors-used")]
    assert [one.outcome for one in found] == ["not-applicable", outcome]
    assert [p.kind for one in found for p in one.problems] == (["nothing-used"] if classes else [])


def test_a_function_under_test_opens_no_files() -> None:
    trial = Trial(FAMILIES["deit"], replace(case_of("deit", "module."), contents=Contents()), loader(NEWEST))
    trial.loader = Loader(parse_target("loader:tests.bad_loaders:missing"), function=lambda checkpoint, model: {})
    assert judge(INVARIANTS["create-model"], trial).outcome == "not-applicable"
