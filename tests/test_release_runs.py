"""Runs over releases from the command line: shards, going on, targets that cannot start, value changes, what is written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from tests.test_cli import cli
from timm_conformance.cli.main import main
from timm_conformance.errors import UserError
from timm_conformance.results import records
from timm_conformance.results.records import Footer, Results, Verdict
from timm_conformance.targets import releases

TARGETS = ["timm==0.9.16", "timm==1.0.3", "reference"]
SELECT = ["--profile", "smoke", "--family", "openai_clip", "--family", "deit", "--family", "dinov3"]


def read(folder):
    """The results in a folder."""
    return Results(records.read(folder / "results.ndjson"))


def comparable(folder):
    """Every record of a folder's results but its footer, which tells the time."""
    return [r for r in read(folder).records if not isinstance(r, Footer)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run of three families on three targets, with a checkout that cannot be imported beside them."""
    out = tmp_path_factory.mktemp("whole")
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / "timm").mkdir()
    (checkout / "timm" / "__init__.py").write_text("raise ImportError('no module named torch.six')")
    broken = f"path:{checkout}"
    done = cli("run", *TARGETS, broken, *SELECT, "--out", str(out), "--junit", str(out / "junit.xml"))
    return done, out, broken


def test_a_target_that_cannot_be_imported_is_one_row_with_its_reason(whole):
    """The others are judged; exit code 2 says that one was not."""
    done, out, broken = whole
    assert done.returncode == 2, done.stdout + done.stderr
    found = read(out)
    assert list(found.errors) == [broken]
    assert "no module named torch.six" in found.errors[broken]
    assert not found.of(broken)
    assert {v.verdict for v in found.of("reference")} == {"pass", "not-applicable"}
    for text in (done.stdout, (out / "summary.md").read_text(), (out / "report.html").read_text()):
        assert "no module named torch.six" in text
    suite = ElementTree.parse(out / "junit.xml").find(f"testsuite[@name='{broken}']")
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    assert suite.find("testcase/error").get("message") == found.errors[broken]


def test_the_position_grid_of_clip_changed_between_two_releases(whole):
    """0.9.16 resized it without antialias, 1.0.3 with it: a change of values, whatever the verdicts say."""
    _, out, _ = whole
    change = next(c for c in read(out).changes if c.family == "openai_clip")
    assert (change.previous, change.target) == ("timm==0.9.16", "timm==1.0.3")
    assert {"pos_embed", "patch_embed.proj.weight"} <= set(change.tensors)
    assert 0 < change.cases < change.compared
    page = (out / "report.html").read_text()
    assert re.search(r"<strong>timm==1\.0\.3</strong> <span[^>]*>against 0\.9\.16", page)
    assert f'<th scope="row">openai_clip</th><td class="n">{change.cases} of {change.compared}</td>' in page
    assert "timm==0.9.16 -> timm==1.0.3: " in (out / "summary.md").read_text()


def test_every_target_loads_the_same_cases(whole):
    """A case has one id, in every release; the reference deviates from itself in nothing."""
    _, out, _ = whole
    ids = {(r.target, r.family): [c.id for c in r.cases] for r in read(out).loads}
    assert ids["timm==0.9.16", "openai_clip"] == ids["timm==1.0.3", "openai_clip"] == ids["reference", "openai_clip"]
    assert len(set(ids["reference", "openai_clip"])) == len(ids["reference", "openai_clip"]) > 20
    assert not any(c.deviations for r in read(out).loads if r.target == "reference" for c in r.cases)


def test_merged_shards_are_the_unsharded_run(whole, tmp_path):
    """Records equal but for the time, whichever order they are merged in; one shard alone says what is missing."""
    _, out, broken = whole
    for shard in ("2/3", "1/3", "3/3"):
        done = cli("run", *TARGETS, broken, *SELECT, "--shard", shard, "--out", str(tmp_path / shard[0]))
        assert done.returncode in (0, 2), done.stdout + done.stderr
    parts = [str(tmp_path / n) for n in "312"]
    done = CliRunner().invoke(main, ["merge", *parts, "-o", str(tmp_path / "all")])
    assert done.exit_code == 2, done.output
    assert comparable(tmp_path / "all") == comparable(out)
    assert read(tmp_path / "all").footers[-1].shards == []
    for command in (["merge", *parts[:2], "-o", str(tmp_path / "two")], ["report", str(tmp_path / "two")]):
        two = CliRunner().invoke(main, command)
        assert "not judged: shard 2/3 is missing: results of 1/3, 3/3 are here" in two.output


def test_a_report_is_made_again_from_results(whole, tmp_path):
    """The same files from results.ndjson alone, and the same exit code."""
    _, out, _ = whole
    (tmp_path / "results.ndjson").write_bytes((out / "results.ndjson").read_bytes())
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 2
    for name in ("results.ndjson", "summary.md", "report.html"):
        assert (tmp_path / name).read_text() == (out / name).read_text(), name


def test_results_that_are_none_are_a_users_mistake(tmp_path):
    """One line that says what to name instead."""
    (tmp_path / "results.ndjson").write_text("nonsense\n")
    for path in (tmp_path, tmp_path / "missing"):
        for command in (["report", str(path)], ["merge", str(path), "-o", str(tmp_path / "o")]):
            done = CliRunner().invoke(main, command)
            assert done.exit_code == 2
            assert "name a folder that a run wrote" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    """--resume keeps what is there, verdict for verdict; only what could not start is tried again."""
    _, whole_out, broken = whole
    out = tmp_path / "out"
    marked = [replace(r, worst=0.125) if isinstance(r, Verdict) and r.worst else r for r in read(whole_out).records]
    out.mkdir()
    Results(marked).write(out / "results.ndjson")
    before = comparable(out)
    assert before != comparable(whole_out)  # so that a verdict judged again would show
    done = cli("run", *TARGETS, broken, *SELECT, "--out", str(out), "--resume")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "9 of 12 pairs of family and target were judged by an earlier run of this suite" in " ".join(
        done.stdout.split()
    ), done.stdout
    assert comparable(out) == before


def test_a_run_that_was_killed_is_gone_on_with(tmp_path):
    """What its workers had written before SIGKILL is kept, though the run wrote nothing itself."""
    select = ["--profile", "smoke", "--family", "deit", "--family", "mae", "--invariant", "strict-load"]
    command = ["run", "reference", *select, "--jobs", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "timm_conformance.cli.main", *command], stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        lines = b"".join(p.read_bytes() for p in (tmp_path / "parts").glob("*.ndjson")) if tmp_path.exists() else b""
        if b'"type":"verdict"' in lines:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "results.ndjson").exists()
    done = cli(*command, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pairs of family and target were judged by an earlier run of this suite" in " ".join(done.stdout.split())
    fresh = cli(*command[:-1], str(tmp_path / "fresh"))
    assert fresh.returncode == 0
    assert comparable(tmp_path) == comparable(tmp_path / "fresh")
    assert not (tmp_path / "parts").exists()


def test_new_failures_come_first_next_time(tmp_path):
    """A run replays the witnesses that an earlier one left; what the ledger explains is expected, the rest is not."""
    select = ["--family", "openai_clip", "--invariant", "strict-load", "--profile", "smoke", "--out", str(tmp_path)]
    assert cli("run", "timm==0.9.16", *select, "--ledger", "none").returncode == 1
    again = cli("run", "timm==0.9.16", *select, "--ledger", "none")
    assert again.returncode == 1
    replays = {w.id: w for w in read(tmp_path).witnesses}
    assert replays
    assert {(w.replay, w.expected) for w in replays.values()} == {("fails", False)}
    explained = cli("run", "timm==0.9.16", *select)
    assert explained.returncode == 0, explained.stdout
    assert {w.expected for w in read(tmp_path).witnesses} == {True}
    next(tmp_path.glob("witnesses/*/*.json")).write_text("{")
    broken = cli("run", "timm==0.9.16", *select)
    assert broken.returncode == 2
    assert len(broken.stderr.strip().splitlines()) == 1


def test_bisect_finds_the_release_that_mended_2120():
    """By its witness, and by drawing cases: 0.9.16 -> 1.0.3."""
    done = cli("bisect", "clip-early-return")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "timm==0.9.16 -> timm==1.0.3: first good release, without clip-early-return"
    )
    select = ["--releases", ">=0.9.12,<=1.0.7"]
    drawn = cli("bisect", "openai_clip:strict-load", *select)
    assert drawn.stdout.splitlines()[-1].startswith(
        "timm==0.9.16 -> timm==1.0.3: first good release, without clip-early-"
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["bisect", "openai_clop:strict-load"], "did you mean 'openai_clip'?"),
        (["bisect", "clip-early"], "did you mean 'clip-early-return'?"),
        (["bisect", "clip-early-return", "--releases", "<0.5"], "there is no such release"),
        (["run", "--releases", "banana"], "--releases 'banana': write a version specifier"),
        (["run", "--releases", ">=99"], "there is no such release"),
    ],
)
def test_a_users_mistake_is_one_line(args, says):
    """What was wrong, and the nearest thing that exists."""
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_the_package_index_the_cached_releases_count(monkeypatch):
    """And it is said that it was not asked."""
    monkeypatch.setattr(releases, "available", lambda: None)
    monkeypatch.setattr(releases, "cached", lambda: ["0.8.0", "0.9.16", "1.0.3", "1.0.31"])
    assert releases.matching(">=0.1") == (["0.9.16", "1.0.3", "1.0.31"], False)
    assert releases.matching(">=1,<1.0.4") == (["1.0.3"], False)
    with pytest.raises(UserError, match=r"in the cache \(the package index cannot be asked\)"):
        releases.matching(">2")


def test_the_ci_matrix_is_json_of_shards():
    """One entry a shard, ready for a workflow's matrix."""
    done = subprocess.run([sys.executable, "-m", "nox", "-s", "ci-matrix", "--", "3"], capture_output=True, text=True)
    if "No module named nox" in done.stderr:
        pytest.skip("nox is not installed in this environment")
    assert json.loads(done.stdout) == {"include": [{"shard": f"{i}/3", "index": i} for i in (1, 2, 3)]}
