"""Cases that every profile judges beside those it draws, and what a model is told of a checkpoint's size."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from msgspec.structs import replace
from packaging.version import Version
from torch import nn

from timm_conformance.cases.profiles import PROFILES
from timm_conformance.drawing import pinned
from timm_conformance.drawing.drawing import PINNED, Drawing
from timm_conformance.drawing.pinned import examples_of
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.targets.declared_size import declare, declared_size, default_size
from timm_conformance.targets.file_reader import reads_saved
from timm_conformance.targets.target import MODEL_RELEASE
from timm_conformance.trials.trial import Trial

STORED = sorted(path.stem for path in pinned.FOLDER.glob("*.json"))
NEWEST = Version("1.0.31")


def test_some_families_have_examples_and_each_file_is_a_familys():
    assert STORED
    assert set(STORED) <= set(FAMILIES)


@pytest.mark.parametrize("name", STORED)
def test_an_example_says_why_and_can_be_judged(name):
    """None twice, and none that no loader could know the answer for."""
    family = FAMILIES[name]
    found = examples_of(family)
    for example in found:
        assert example.why.endswith(".")
        assert family.undecidable(example.case) is None
        assert family.undecidable_grid(example.case, default_size(example.case)) is None
    assert len({example.case.to_json() for example in found}) == len(found)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_judges_examples(profile, tmp_path):
    """Also when the cases are read from the folder that workers share; a family without any draws as ever."""
    family = FAMILIES["radio"]
    drawing = Drawing(dataclasses.replace(PROFILES[profile], cases=1), seed=5, folder=tmp_path)
    known = load_ledger(DEFAULT_LEDGER)
    witness = known.witnesses["radio-positions-transposed"].case
    assert known.entry("radio-positions-transposed").pinned
    for _ in range(2):
        assert drawing.cases(family)[PINNED] == [*(example.case for example in examples_of(family)), witness]
    assert drawing.cases(FAMILIES["aimv2"])[PINNED] == []


@pytest.mark.parametrize("profile", ["smoke", "gate"])
def test_every_profile_meets_the_regimes_of_every_known_bug(profile):
    """By a stratum or a pinned case, whatever the ledger of the run is. A run on a CPU is never off it."""
    met, ends = set(), (Version(MODEL_RELEASE), Version("0.9.0"))  # 0.9.0 opens the fewest training checkpoints
    reads = lambda family, case: all(reads_saved(family, case, end) for end in ends)  # noqa: E731
    nowhere = SimpleNamespace(device="cpu", reads_saved=reads)
    entries = [e for e in load_ledger(DEFAULT_LEDGER).entries if "off-cpu" not in " ".join(e.regime)]
    for family in FAMILIES.values():
        own = [e for e in entries if e.concerns(family.name)]
        for cases in Drawing(PROFILES[profile], 0, focused=False).cases(family).values():
            met |= {e.id for case in cases for e in own if e.meets(Trial(family, case, nowhere).regimes)}
    assert [e.id for e in entries if e.id not in met] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "cannot be read"),
        ('[{"why": "No case."}]', "cannot be read"),
        (None, "have a case of radio"),
    ],
)
def test_a_file_that_is_no_familys_examples_is_one_line(text, says, tmp_path, monkeypatch):
    text = text or (pinned.FOLDER / "radio.json").read_text()
    (tmp_path / "mae.json").write_text(text)
    monkeypatch.setattr(pinned, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=f"examples .*mae.json {says}") as raised:
        examples_of(FAMILIES["mae"])
    assert "\n" not in str(raised.value)


@pytest.fixture
def case():
    """An example whose size is declared, and is not the registered model's."""
    case = replace(examples_of(FAMILIES["timm_native"])[0].case, declared="true")
    assert declared_size(FAMILIES["timm_native"], case, case.source) != default_size(case)
    return case


def told(case, release, size=(6, 9)):
    """What a model knows after it was told a size."""
    model = nn.Linear(1, 1)
    declare(model, case, size, release)
    return model.__dict__.get("pretrained_cfg"), model.__dict__.get("pretrained_model_args")


def seeded(case, seed):
    return replace(case, contents=replace(case.contents, seed=seed))


def test_a_true_size_is_told_in_both_ways_that_a_release_reads(case):
    """By the configuration; from 1.0.31 on also by the arguments a model was saved with, whatever the configuration says."""
    channels, default = case.arch.get("in_chans", 3), default_size(case)
    even, odd = seeded(case, 4), seeded(case, 5)
    for release in (None, Version("0.9.16"), Version("1.0.30")):
        assert told(odd, release) == ({"input_size": (channels, 6, 9)}, None)
    assert told(even, NEWEST) == ({"input_size": (channels, 6, 9)}, None)
    assert told(odd, NEWEST) == ({"input_size": (channels, *default)}, {"img_size": (6, 9)})
    assert told(odd, NEWEST, (8, 8))[1] == {"img_size": 8}


def test_no_size_and_a_false_one_are_told_by_the_configuration_alone(case):
    """And what a model was told before is forgotten: one serves many cases."""
    odd = seeded(case, 5)
    assert told(odd, NEWEST, None) == (None, None)
    assert told(replace(odd, declared="default"), NEWEST)[1] is None
    model = nn.Linear(1, 1)
    declare(model, odd, (6, 9), NEWEST)
    declare(model, odd, None, NEWEST)
    assert not {"pretrained_cfg", "pretrained_model_args"} & set(model.__dict__)


def test_what_is_declared_is_true_or_absent_or_the_registered_models(case):
    family = FAMILIES["timm_native"]
    sizes = {
        how: declared_size(family, replace(case, declared=how), case.source) for how in ("true", "absent", "default")
    }
    (gh, gw), (ph, pw) = case.source.grid_size, case.source.patch_size
    assert sizes == {"true": (gh * ph, gw * pw), "absent": None, "default": default_size(case)}
