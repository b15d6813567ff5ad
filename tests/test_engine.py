"""The engine and what a run amounts to: determinism, regimes, vacuity, exit codes."""

from __future__ import annotations

import importlib
from itertools import product
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from timm_conformance.cases.case import VARIED, Case, Contents, Geometry
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.cases.regimes import regimes
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.drawing.hypothesis_internals import seed_alone
from timm_conformance.drawing.strategies import MAX_GRID, MAX_PATCH, STRATA, cases, strata_of
from timm_conformance.engine.explorer import Explorer, judge
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.invariants.registry import invariant
from timm_conformance.ledger.entries import Ledger
from timm_conformance.results import outcome
from timm_conformance.results.records import Header, Results, Verdict, Witness
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.scratch import scratch_folder
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.problems import raised
from timm_conformance.trials.trial import Trial


@pytest.fixture(scope="module")
def loader():
    """The reference, made ready in this process."""
    return Loader(parse_target("reference"))


def drawn(family, stratum, count=15, seed=1):
    """Cases of a stratum."""
    found = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @hypothesis.given(cases(family, stratum))
    def collect(case):
        found.append(case)

    with seed_alone():  # else the draws would hang on which modules other tests have imported
        collect()
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_drawn_cases_keep_to_their_bounds(name):
    """Patches 1 to 32, free grids 1 to 8, widths 8 to 48, depth 1 to 3 or 11; decidable; JSON both ways; reachable regimes."""
    family, met = FAMILIES[name], set()
    top = MAX_GRID * family.grid_multiple
    for stratum in strata_of(family):
        for case in drawn(family, stratum, 8):
            for geometry in (case.source, case.destination):
                assert all(1 <= p <= MAX_PATCH for p in geometry.patch_size)
                assert stratum.sizes == "real" or all(1 <= g <= top for g in geometry.grid_size)
            assert 8 <= case.arch["embed_dim"] <= 48
            assert case.arch["depth"] in ((11, 3) if stratum.many_blocks else (1, 2, 3))
            assert ("many-blocks" in regimes(case, 0)) == stratum.many_blocks
            assert Case.from_json(case.to_json()) == case
            met |= regimes(case, family.num_prefix_tokens(case.arch)) | family.tags(case)
    wanted = {r for i in INVARIANTS.values() for r in i.regimes if family.reaches(r, "any")} - {"cuda"}
    for seed, stratum in product(range(2, 22), strata_of(family)):
        if wanted | family.own_regimes <= met:
            break
        for case in drawn(family, stratum, 8, seed):
            met |= regimes(case, family.num_prefix_tokens(case.arch)) | family.tags(case)
    assert not met & family.unreachable
    assert family.own_regimes <= met
    assert wanted <= met, "a regime no case of the family is in must be in `unreachable`"


@pytest.mark.parametrize("stratum", STRATA, ids=lambda s: s.name)
def test_strata_are_what_they_say(stratum):
    """A stratum's cases are in its regimes; where nothing changes, their tokens vary, so that a forward pass can be judged."""
    for case in drawn(FAMILIES["timm_native"], stratum, 40):
        found = regimes(case, 1)
        assert case.contents.kind in VARIED or not case.native
        if stratum.sizes == "free":
            assert f"patch-{stratum.patch}" in found
            expected = "equal-count-other-shape" if stratum.grid == "equal-count" else f"grid-{stratum.grid}"
            assert expected in found


@pytest.mark.parametrize("stratum", [s for s in STRATA if s.sizes == "free"], ids=lambda s: s.name)
def test_square_grids_are_as_often_as_a_family_says(stratum):
    """Half of those that can be, or all; a stratum stays what it is."""
    square = {}
    for name, seeds in (("beit", 2), ("naflex_radio", 1)):
        found = [c for seed in range(seeds) for c in drawn(FAMILIES[name], stratum, 60, seed)]
        grids = [(c.source.grid_size, c.destination.grid_size) for c in found]
        square[name] = sum(all(h == w for h, w in pair) for pair in grids) / len(grids)
        if stratum.grid in ("grow", "shrink"):
            assert all(old != new for old, new in grids)
    uneven = stratum.grid in ("mixed", "equal-count")
    assert square["naflex_radio"] == 1
    assert square["beit"] < 0.2 if uneven else 0.3 < square["beit"] < 1


def test_a_checkpoint_is_asked_for_other_channels_than_its_own():
    """Of one channel for colour images, as of three for grey ones, where the caller says which it has."""
    drawn_cases = [c for seed in range(4) for c in drawn(FAMILIES["timm_native"], STRATA[0], 120, seed)]
    found = [c for c in drawn_cases if c.in_chans is not None]
    asked = {(c.arch["in_chans"], c.in_chans) for c in found}
    assert {(3, 1), (3, 4)} < asked
    assert all(own != other for own, other in asked)
    assert {c.declared for c in found if c.arch["in_chans"] != 3} == {"true"}


@pytest.mark.parametrize("seed", [55, 58, 69])
def test_the_bound_of_a_forward_pass_follows_what_rounds_and_not_the_image(loader, seed):
    """Found by a hunt: behind a kernel of ramps an image moves these outputs a millionth, the tensors a thousandfold."""
    arch = {"class_token": False, "depth": 3, "embed_dim": 8, "global_pool": "avg", "mlp_ratio": 4, "num_classes": 0}
    arch |= {"num_heads": 2, "pos_embed": "none", "qkv_bias": False, "reg_tokens": 0}
    geometry, name = Geometry((1, 4), (8, 8)), "swin_base_patch4_window12_384.ms_in1k"
    case = Case("swin", arch, geometry, geometry, contents=Contents("ramp", seed), model_name=name)
    assert judge(INVARIANTS["native-forward"], Trial(FAMILIES["swin"], case, loader)).outcome == "pass"


def test_exploring_twice_gives_the_same_verdicts(loader):
    """Deterministic: cases, counts, errors as fractions of their bounds, everything."""
    runs = []
    for _ in range(2):
        explorer = Explorer(loader, Ledger(), INVARIANTS.values(), Drawing(PROFILES["smoke"], seed=3))
        runs.append(explorer.explore(FAMILIES["dinov2_swiglu"]))
    assert runs[0] == runs[1]
    assert {v.verdict for v in runs[0]} <= {"pass", "not-applicable"}


def test_the_seed_alone_says_which_cases_are_drawn(tmp_path, monkeypatch):
    """Whatever modules a process has imported: Hypothesis draws from the constants in their source."""
    monkeypatch.syspath_prepend(tmp_path)
    drawing = Drawing(PROFILES["gate"], seed=0)
    names = ("deit", "dinov2", "openai_clip", "mae", "timm_native")
    before = [drawing.cases(FAMILIES[name]) for name in names]
    (tmp_path / "somebodys_own.py").write_text(f"NUMBERS = {list(range(100, 900))}\n")
    importlib.import_module("somebodys_own")
    assert [drawing.cases(FAMILIES[name]) for name in names] == before


def test_our_own_mistake_is_an_error_and_no_failure(loader):
    """An exception inside an invariant is the suite's fault."""
    broken = INVARIANTS["finite"].__class__("broken", "", "", "", (), lambda t: None, lambda t: 1 / 0)
    case = drawn(FAMILIES["timm_native"], STRATA[0])[0]
    judged = judge(broken, Trial(FAMILIES["timm_native"], case, loader))
    assert judged.outcome == "error"
    assert "ZeroDivisionError" in judged.reason


def test_two_invariants_may_not_share_a_name():
    """Names are identities."""
    with pytest.raises(ValueError, match="two invariants are named strict-load"):

        @invariant(statement="", catches="")
        def strict_load(trial):
            yield

    assert INVARIANTS["strict-load"].statement


GRIDS = {"2x8": (2, 8), "4x4": (4, 4), "3x5": (3, 5), "2x2": (2, 2)}


@pytest.mark.parametrize(
    ("source", "destination", "declared", "decidable"),
    [
        ("2x8", "4x4", "true", True),
        ("2x8", "4x4", "absent", False),
        ("2x8", "2x8", "absent", True),
        ("4x4", "2x2", "absent", True),
        ("3x5", "2x2", "absent", False),
        ("3x5", "3x5", "default", True),
        ("4x4", "4x4", "default", True),
    ],
)
def test_what_a_loader_is_entitled_to_know(source, destination, declared, decidable):
    """A square number of tokens is a square, as many tokens as the model has are its grid, anything else must be declared."""
    geometries = [Geometry((4, 4), GRIDS[g]) for g in (source, destination)]
    case = Case("timm_native", {}, *geometries, declared=declared)
    assert (FAMILIES["timm_native"].undecidable_grid(case, (16, 16)) is None) is decidable


def header(*invariants):
    """A header that demands what the registry demands."""
    return Header(
        "t", "1", "3", "2", "p", "cpu", [], "gate", 0, [], {i: list(INVARIANTS[i].regimes) for i in invariants}
    )


def verdict(name="pass", target="t", invariant="strict-load", family="openai_clip", **more):
    """A verdict with as many judged cases as it says."""
    return Verdict(target, family, invariant, name, **more)


@pytest.mark.parametrize(
    ("records", "gaps", "code"),
    [
        ([verdict()], [], 0),
        ([verdict("known")], [], 0),
        ([verdict("fail"), verdict("error")], ["gap"], 1),
        ([verdict("error")], [], 2),
        ([verdict()], ["gap"], 3),
        ([verdict(), Witness("t", "w", "fails", True)], [], 0),
        ([verdict(), Witness("t", "w", "fixed", False)], [], 1),
        ([verdict(), Witness("t", "w", "fails", False)], [], 1),
        ([verdict(), Witness("t", "w", "error", False)], [], 2),
    ],
)
def test_exit_codes(records, gaps, code):
    """0 expected, 1 new failure or stale entry, 2 could not run, 3 vacuous."""
    assert outcome.exit_code(Results(records), gaps) == code


def test_an_invariant_that_was_not_checked_is_a_gap():
    """No judged case, or a missed regime, is vacuous; blocked and not-applicable cases do not count."""
    full = dict.fromkeys(("any", *INVARIANTS["pi-adjoint"].regimes), 2)
    every = list(FAMILIES)

    def gaps(**cell):
        records = [verdict(invariant="pi-adjoint", family=f, **cell) for f in every]
        return outcome.vacuous(Results([header("pi-adjoint"), *records]), every, narrowed=False)

    assert gaps(cases={"pass": 2}, regimes=full) == []
    assert gaps(cases={"blocked": 9, "not-applicable": 3}) == ["t: pi-adjoint met no case it could judge"]
    assert gaps(cases={"blocked": 9}, excused=["any"]) == []
    assert gaps(cases={"pass": 2}, regimes={"any": 2, "patch-grow": 2}) == [
        "t: pi-adjoint met no case of regime patch-non-square"
    ]
    assert gaps(cases={"pass": 2}, regimes={"any": 2, "patch-grow": 2}, excused=["patch-non-square"]) == []


def test_a_narrowed_run_asks_only_for_what_it_can_reach():
    """CLIP has exactly one prefix token: a run of CLIP alone cannot meet the others, and is not vacuous for it."""
    wanted = dict.fromkeys({"any", *INVARIANTS["strict-load"].regimes} - FAMILIES["openai_clip"].unreachable, 1)
    records = [header("strict-load"), verdict(cases={"pass": 1}, regimes=wanted)]
    assert outcome.vacuous(Results(records), ["openai_clip"], narrowed=True) == []
    del wanted["native"]
    assert outcome.vacuous(Results(records), ["openai_clip"], narrowed=True) == [
        "t: strict-load met no case of regime native"
    ]


def test_a_message_does_not_name_the_scratch_folder():
    """It is another one each time, and the same failure is told the same."""
    with scratch_folder() as folder:
        path = Path(folder) / "checkpoint.npz"
        problem = raised(ValueError(f"cannot read '{path}' of 2 tokens"), "loading")
    assert problem.message == "loading raised ValueError: cannot read 'checkpoint.npz' of 2 tokens"
