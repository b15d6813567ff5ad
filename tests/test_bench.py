"""The benchmark from the command line, on little: each part says what it claims, and no time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import msgspec
import pytest
from click.testing import CliRunner

from timm_conformance.bench import first_verdict, loop, scaling, timing
from timm_conformance.bench.__main__ import main
from timm_conformance.bench.part import Part, markdown, shown
from timm_conformance.bench.subject import CHANGES, STATES
from timm_conformance.bench.timing import Timed, in_turn
from timm_conformance.errors import UserError
from timm_conformance.targets.target import MODEL_RELEASE

ROOT = Path(__file__).resolve().parent.parent
NEWEST = f"timm=={MODEL_RELEASE}"


def bench(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess:
    """The command, run to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "timm_conformance.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)


def parts(out: Path) -> dict[str, Part]:
    """What bench.json holds, by part."""
    found = msgspec.json.decode((out / "bench.json").read_bytes())
    assert found["machine"]
    return {part["name"]: part for part in found["parts"]}


@pytest.fixture(scope="module")
def resampled(tmp_path_factory) -> tuple[dict[str, Part], str, str]:
    """The comparison of one size and a checkpoint with the newest release, its page and what was printed."""
    out = tmp_path_factory.mktemp("bench")
    one = ("--only", "resampling", "--size", "B/16 → 14", "--releases", f"=={MODEL_RELEASE}", "--rounds", "3")
    done = bench(*one, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return parts(out), (out / "bench.md").read_text(encoding="utf-8"), done.stdout


def test_a_release_is_a_multiple_of_the_reference(resampled):
    """Side by side in a row; the median of the rounds' ratios lies between the extreme ones."""
    rows = resampled[0]["resampling"]["rows"]
    assert [(r["what"], r["state"]) for r in rows] == [
        (what, state) for what in ("kernel", "positions", "both") for state in STATES
    ]
    for row in rows:
        ours, theirs = row["reference"], row[NEWEST]
        assert ours["ratio"] is None
        assert ours["rounds"] == theirs["rounds"] > 1
        assert 0 < ours["low"] <= ours["median"] <= ours["high"]
        assert theirs["low"] / ours["high"] <= theirs["ratio"] <= theirs["high"] / ours["low"]


def test_both_is_kernel_and_positions_of_the_same_rounds(resampled):
    """The least of the sums is no less than the sum of the least."""
    cold = {r["what"]: r["reference"] for r in resampled[0]["resampling"]["rows"] if r["state"] == "cold"}
    assert cold["both"]["low"] >= cold["kernel"]["low"] + cold["positions"]["low"] - 1e-12
    assert cold["both"]["high"] <= cold["kernel"]["high"] + cold["positions"]["high"] + 1e-12


def test_whole_checkpoints_are_converted_and_load(resampled):
    """Two formats of the size asked for; a conversion that no model loads would be a finding."""
    found = resampled[0]["checkpoints"]
    assert {r["checkpoint"] for r in found["rows"]} == {"ViT-B/16 → 14, openai_clip", "ViT-B/16 → 14, timm_native"}
    assert not found["findings"]


def test_the_page_and_the_terminal_say_the_same(resampled):
    """Every finding stands in both."""
    found, page, said = resampled
    findings = found["resampling"]["findings"]
    assert len(findings) == 1 + 3 * len(STATES)
    assert all(f"- {finding}" in page and finding in said for finding in findings)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, Part]:
    """Overhead and growth on one family."""
    out = tmp_path_factory.mktemp("bench")
    little = ("--only", "overhead", "--only", "scaling", "--family", "ijepa", "--quick")
    done = bench(*little, "--releases", f"=={MODEL_RELEASE}", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return parts(out)


def test_the_harness_is_what_the_gate_takes_beyond_the_loop(measured):
    """The parts are of one whole, and cases were judged in both."""
    rows = [{k: v["median"] for k, v in r.items() if k != "what"} for r in measured["overhead"]["rows"]]
    gate, bare, inside, harness, drawing = rows
    for clock in ("wall", "processors"):
        assert harness[clock] == pytest.approx(gate[clock] - bare[clock])
        assert 0 < inside[clock] < bare[clock]
        assert drawing[clock] > 0
    ratios = [r["wall"]["ratio"] for r in measured["overhead"]["rows"]]
    assert ratios[0] == 1
    assert ratios[1] + ratios[3] == pytest.approx(1)
    cases, checks = (int(word.split()[0]) for word in measured["overhead"]["findings"][0].split(": ")[1].split(", "))
    assert checks > cases > 10


def test_a_run_grows_along_a_line(measured):
    """More examples are more cases, and each quantity has its line in words."""
    points = [(r["number"], r["seconds"]) for r in measured["scaling"]["rows"] if r["against"] == "examples"]
    assert len(points) == 3
    assert sorted(points)[0][0] < sorted(points)[1][0] < sorted(points)[2][0]
    said = [finding.split(":")[0] for finding in measured["scaling"]["findings"]]
    assert said == ["families", "examples", "releases", "cores"]


def test_the_loop_asks_what_the_engine_asks(tmp_path, monkeypatch):
    """An invariant that does not apply is not counted, one that fails is; nothing it raises stops the loop."""
    from types import SimpleNamespace

    from timm_conformance.trials.loaded import Blocked

    def blocked(trial):
        raise Blocked("elsewhere")
        yield

    decidable, not_so = SimpleNamespace(undecidable=None), SimpleNamespace(undecidable="nobody knows")
    seen = []
    asks = SimpleNamespace(applies=lambda trial: None, check=lambda trial: (seen.append(n) for n in range(3)))
    assert loop.check(asks, decidable)
    assert seen == [0, 1, 2]
    assert not loop.check(asks, not_so)
    assert not loop.check(SimpleNamespace(applies=lambda trial: "not its business", check=asks.check), decidable)
    assert loop.check(SimpleNamespace(applies=lambda trial: None, check=blocked), decidable)
    assert seen == [0, 1, 2]


# -- the arithmetic --------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_own():
    """A slow round that meets both says nothing of either."""
    theirs, ours = [3.0, 30.0, 4.0], [1.0, 10.0, 1.0]
    timed = Timed.of(theirs, ours)
    assert timed == Timed(median=4.0, low=3.0, high=30.0, rounds=3, ratio=3.0)
    assert median(theirs) / median(ours) != timed.ratio


def test_subjects_take_turns_and_stop_when_the_time_is_over(monkeypatch):
    """Two rounds whatever they take; no third one after the time."""
    order: list[str] = []
    subjects = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    in_turn(subjects, 3)
    assert order == ["a", "b"] * 3
    assert len(in_turn(subjects, 9, seconds=0)["a"]) == 2


def test_a_line_is_fitted_with_what_is_off_it():
    """An exact line has nothing off it; one point moved by a third of the longest is seen."""
    slope, base, residual, r2 = scaling.fitted([(1, 5.0), (2, 7.0), (3, 9.0)])
    assert (slope, base, residual, r2) == pytest.approx((2, 3, 0, 1))
    assert scaling.fitted([(1, 1.0), (2, 4.0), (3, 9.0)])[2] == pytest.approx((2 / 3) / 9)
    assert scaling.fitted([(4, 2.0)]) == (0.0, 2.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Timed(0.0123, 0.0119, 0.013, 3, 3.456), "12.3 ms (11.9–13) 3.46x"),
        (Timed(2.5, 2.5, 2.5, 1), "2.5 s"),
        (0.12345, "0.123"),
        (7, "7"),
        ("B/16 → 8", "B/16 → 8"),
    ],
)
def test_a_cell_shows_median_spread_and_ratio(cell, text):
    """One round has no spread."""
    assert shown(cell) == text


def test_the_page_is_a_table_a_part():
    """Headings once, a line a row."""
    page = markdown([Part("x", "How?", [{"what": "a", "seconds": 1.0}, {"what": "b", "seconds": 2.0}], ["so"])], "m")
    assert "## How?\n\n| what | seconds |\n|---|---|\n| a | 1 |\n| b | 2 |\n\n- so\n" in page


# -- what does not work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "overheads"), "'overheads'"),
        (("--releases", "newest"), "write a version specifier"),
        (("--releases", "==9.9.9"), "there is no such release"),
        (("--target", "timm=1.0.31"), "unknown target"),
        (("--family", "dino2"), "did you mean 'dinov2'?"),
        (("--size", "B/16 -> 8"), "did you mean 'B/16 → 8'?"),
        (("--rounds", "0"), "0 is not in the range"),
        (("--out", f"{__file__}/bench"), "Not a directory"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path):
    """Before anything is measured; no traceback."""
    done = CliRunner().invoke(main, ["--out", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert said in done.stderr.splitlines()[-1]
    assert not done.stdout


def test_a_process_that_fails_is_not_measured():
    """Its last words are the reason."""
    with pytest.raises(UserError, match=r"cannot measure: .*no such thing"):
        timing.run([sys.executable, "-c", "print('ERROR: no such thing'); raise SystemExit(5)"])
    spent = timing.run([sys.executable, "-c", "raise SystemExit(3)"], codes=(3,))
    assert spent.wall > 0 < spent.cpu


def test_a_run_without_the_verdict_is_an_error(monkeypatch):
    """The command says nothing of #2120: that is told, with what it did say."""
    monkeypatch.setattr(first_verdict, "_SAID", {"never": "no such line"})
    monkeypatch.setattr(first_verdict.sys, "executable", "/bin/echo")
    with pytest.raises(UserError, match=r"no verdict on #2120: .*conformance\.cli"):
        first_verdict.measure(1)


def test_the_sizes_are_those_of_real_models():
    """Heads are 64 wide and both grids cover the same pixels, but for what no patch fills."""
    assert [c.name for c in CHANGES] == [
        "B/16 → 8", "B/16 → 14", "B/16 → 32", "L/14 → 28", "H/14 → 16", "B/32 → 64"
    ]  # fmt: skip
    for change in CHANGES:
        old, new = change.geometries
        assert all(224 - g.patch_size[0] < g.img_size[0] <= 224 for g in (old, new))
    assert json.dumps([c.embed_dim for c in CHANGES]) == "[768, 768, 768, 1024, 1280, 768]"
