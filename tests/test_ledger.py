"""The ledger: what it attributes, what it refuses to attribute, and what it refuses to be."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from msgspec.structs import replace
from packaging.version import Version

from timm_conformance.errors import UserError
from timm_conformance.ledger.entries import DEFAULT_LEDGER, Entry, Ledger, load_ledger
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target

ENTRY = Entry(
    id="example",
    kind="bug",
    title="",
    releases=">=0.9.0,<1.0.3",
    families=["openai_clip"],
    shows=["strict-load:size-mismatch:patch_embed.*"],
    regime=["patch-grow", "patch-mixed & !half-precision"],
    explanation="",
)
SHOWN = ("openai_clip", "strict-load", "size-mismatch", "patch_embed.proj.weight")


@pytest.mark.parametrize("regimes", [{"patch-grow"}, {"patch-mixed", "float32"}])
def test_a_failure_inside_is_attributed(regimes):
    """Family, signature and one regime hold."""
    assert ENTRY.covers(*SHOWN, frozenset(regimes))


@pytest.mark.parametrize(
    ("shown", "regimes"),
    [
        (("dinov2", *SHOWN[1:]), {"patch-grow"}),
        (("openai_clip", "finite", *SHOWN[2:]), {"patch-grow"}),
        ((*SHOWN[:2], "missing-key", SHOWN[3]), {"patch-grow"}),
        ((*SHOWN[:3], "pos_embed"), {"patch-grow"}),
        (SHOWN, {"patch-native"}),
        (SHOWN, {"patch-mixed", "half-precision"}),
    ],
)
def test_known_does_not_mean_blind(shown, regimes):
    """Another family, invariant, failure class, tensor or regime is a new failure."""
    assert not ENTRY.covers(*shown, frozenset(regimes))


@pytest.mark.parametrize(
    ("release", "applies"), [("0.9.16", True), ("1.0.3", False), ("1.0.0.dev0", True), ("0.8.0", False)]
)
def test_releases_are_compared_as_versions(release, applies):
    """Development releases count; ranges end where they say."""
    assert ENTRY.applies_to(Version(release)) is applies


def test_a_loader_that_is_not_timms_is_excused_by_faults_of_libraries_only():
    """A bug of timm never applies to it; a dependency's fault does where the probe found it, in any family."""
    assert not ENTRY.applies_to(None)
    fault = replace(ENTRY, id="f", kind="dependency", probe="p")
    known_bugs = Ledger([ENTRY, fault])
    assert known_bugs.active(None) == []
    assert known_bugs.active(None, {"p"}) == [replace(fault, families=["*"])]
    assert known_bugs.active(Version("0.9.16"), {"p"}) == [ENTRY, fault]
    assert known_bugs.active(Version("0.9.16")) == [ENTRY]
    assert known_bugs.active(Version("1.0.3"), {"p"}) == []


def test_a_family_that_shows_a_bug_later_than_others_is_not_excused_before():
    """Its failure on an earlier release is new, or its claim would be one that nobody observed."""
    entry = replace(ENTRY, families=["openai_clip*"], since={"openai_clip_ddp": "0.9.9"})
    known_bugs = Ledger([entry])
    named = {
        release: [
            f for f in ("openai_clip", "openai_clip_ddp", "mae") if known_bugs.active(Version(release))[0].concerns(f)
        ]
        for release in ("0.9.8", "0.9.9")
    }
    assert named == {"0.9.8": ["openai_clip"], "0.9.9": ["openai_clip", "openai_clip_ddp"]}


def test_a_fault_that_no_release_meets_excuses_no_release():
    """An entry without releases is for loaders that are not timm's."""
    fault = replace(ENTRY, kind="dependency", releases="", probe="p")
    assert not fault.applies_to(Version("0.9.16"), {"p"})
    assert fault.applies_to(None, {"p"})


def test_the_reference_is_never_excused():
    """It uses no function that a probe asks about."""
    assert Loader(parse_target("reference")).library_faults == {}


def test_the_ledger_loads_and_every_entry_has_its_witness():
    """Every entry's witness shows one of the failures it claims, in a family and regime it names."""
    from timm_conformance.families import FAMILIES
    from timm_conformance.trials.trial import Trial

    known_bugs = load_ledger(DEFAULT_LEDGER)
    assert known_bugs.entries
    for entry in known_bugs.entries:
        witness = known_bugs.witnesses[entry.id]
        family = FAMILIES[witness.case.family]
        device = "cuda" if entry.regime == ["off-cpu"] else "cpu"
        unread = all("saved-unread" in regime for regime in entry.regime)
        loader = SimpleNamespace(device=device, reads_saved=lambda family, case, unread=unread: not unread)
        found = Trial(family, witness.case, loader).regimes
        assert entry.covers(family.name, witness.invariant, witness.kind, witness.tensor, found), entry.id
        assert len(re.findall(r"[.;](?:\s|$)", entry.explanation)) >= 2, f"{entry.id}: two sentences"


def test_a_view_has_the_kind_of_its_cause():
    """One cause is one finding, of one kind."""
    known_bugs = load_ledger(DEFAULT_LEDGER)
    views = [entry for entry in known_bugs.entries if entry.view_of]
    assert views
    for view in views:
        assert view.kind == known_bugs.entry(view.view_of).kind, view.id


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('releases = ">=0.9.0,<1.0.3"', 'releases = ">=1.0.3,<0.9.0"', "no version can satisfy"),
        ('releases = ">=0.9.0,<1.0.3"', 'releases = "about 0.9"', "is no version range"),
        (
            'families = ["openai_clip", "openai_clip_ddp", "openclip_tower"]',
            'families = ["clip"]',
            "unknown family 'clip'",
        ),
        ('kind = "bug"', 'kind = "bug"\nsince = {clip = "0.9.9"}', "unknown family 'clip'"),
        ('kind = "bug"', 'kind = "bug"\nsince = {openai_clip = "1.0.3"}', "since has '1.0.3', which is no release of"),
        ('kind = "bug"', 'kind = "bug"\nsince = {openai_clip = "new"}', "since has 'new', which is no release of"),
        ('kind = "bug"', 'kind = "bugg"', "cannot be read.*bugg"),
        ('kind = "bug"', 'kind = "dependency"', "unknown probe ''"),
        ('kind = "bug"', 'kind = "bug"\nprobe = "torch-antialias-width-one"', "a bug needs releases, and no probe"),
        ('releases = ">=0.9.0,<1.0.3"', "", "a bug needs releases, and no probe"),
        (
            'probe = "torch-antialias-width-one"',
            'probe = "torch-antialias"',
            "did you mean 'torch-antialias-width-one'",
        ),
        ("[[entry]]", "[[entry", "cannot be read"),
        ('id = "clip-early-return"', 'id = "clip-early"', "every ledger entry needs one"),
        ('id = "clip-grid-not-antialiased"', 'id = "clip-early-return"', "appears twice"),
    ],
)
def test_an_impossible_ledger_is_one_line(tmp_path, old, new, says):
    """What is wrong, in which file and entry."""
    text = DEFAULT_LEDGER.read_text()
    assert old in text
    (tmp_path / "ledger.toml").write_text(text.replace(old, new, 1))
    shutil.copytree(DEFAULT_LEDGER.parent / "witnesses", tmp_path / "witnesses")
    with pytest.raises(UserError, match=says) as caught:
        load_ledger(tmp_path / "ledger.toml")
    assert "\n" not in str(caught.value)


def test_a_missing_ledger_is_one_line(tmp_path):
    """The way out is named."""
    with pytest.raises(UserError, match="--ledger none"):
        load_ledger(tmp_path / "nothing.toml")


@pytest.mark.parametrize("targets", [("timm==0.9.16", "timm==1.0.31", "reference")])
def test_every_witness_fails_inside_and_passes_outside(targets):
    """The stored witnesses, replayed from the command line, are as the ledger says on both releases and the reference."""
    done = subprocess.run(
        [sys.executable, "-m", "timm_conformance.cli.main", "replay", *targets],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILS           timm==0.9.16     clip-early-return" in done.stdout
    assert "FIXED           timm==1.0.31     clip-early-return" in done.stdout
    assert "not as the ledger says" not in done.stdout
