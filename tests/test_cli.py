"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.preloaded import PYTHON
from timm_conformance.alarm.unknown_formats import MODULES
from timm_conformance.cli.main import main
from timm_conformance.results import records as results


def cli(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in its own process."""
    command = [sys.executable, "-m", "timm_conformance.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_help_needs_no_torch():
    """`--help` names every command without importing torch, so that it is instant."""
    code = "import sys; sys.argv = ['timm-conformance', '--help']\nimport timm_conformance.cli.main as c\n"
    code += "try:\n    c.main()\nfinally:\n    print('torch' in sys.modules)"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("False")
    for command in ("run", "list", "replay", "doctor"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["run", "timm=0.9.16"], "unknown target 'timm=0.9.16'"),
        (["run", "reference", "--family", "openai_clop"], "unknown family 'openai_clop': did you mean 'openai_clip'?"),
        (["run", "reference", "--invariant", "strict_load"], "did you mean 'strict-load'?"),
        (["run", "reference", "--profile", "gat"], "unknown profile 'gat': did you mean 'gate'?"),
        (["run", "reference", "--shard", "3/2"], "--shard '3/2': write I/N"),
        (["run", "reference", "--ledger", "missing.toml"], "ledger missing.toml"),
        (["replay", "clip-early-retrun", "reference"], "did you mean 'clip-early-return'?"),
        (
            ["run", "reference", "--junit", "no-such-folder/junit.xml"],
            "--junit no-such-folder/junit.xml: there is no folder",
        ),
        (["replay", "clip-early-return"], "name at least one target"),
        (["replay", "missing.json", "reference"], "witness missing.json"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(capsys, args, says):
    """No traceback: what was wrong, and the nearest thing that exists."""
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_list_families_as_json():
    """An array of objects with at least name, module, known_since, complete_since and models."""
    rows = json.loads(CliRunner().invoke(main, ["list", "families", "--format", "json"]).output)
    assert {r["name"] for r in rows} >= {"timm_native", "openai_clip", "dinov2_registers", "openclip_trunk_ddp"}
    for row in rows:
        assert row["module"] in MODULES
        assert row["known_since"]
        assert row["complete_since"]
        assert row["models"], row["name"]


@pytest.mark.parametrize("what", ["families", "invariants", "ledger", "releases"])
def test_every_list_prints_a_table_and_json(what):
    """Both forms of every list."""
    table = CliRunner().invoke(main, ["list", what])
    assert table.exit_code == 0, table.output
    assert isinstance(json.loads(CliRunner().invoke(main, ["list", what, "--format", "json"]).output), list)


def test_doctor_names_what_it_found():
    """Versions, shim, cache."""
    done = cli("doctor")
    assert done.returncode == 0, done.stderr
    for word in ("torch", "hypothesis", "torchvision-operators", "release cache", "CUDA"):
        assert word in done.stdout


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory):
    """#2120 on both releases and the reference, from the command line, with everything it writes."""
    out = tmp_path_factory.mktemp("out")
    select = ["--family", "openai_clip", "--invariant", "strict-load", "--invariant", "no-early-return"]
    targets = ["timm==0.9.16", "timm==1.0.31", "reference"]
    done = cli("run", *targets, *select, "--profile", "smoke", "--out", str(out), "--junit", str(out / "junit.xml"))
    return done, out


def test_run_ends_as_the_ledger_says(clip_run):
    """The known bug shows on the old release only, and is known."""
    done, out = clip_run
    assert done.returncode == 0, done.stdout + done.stderr
    found = results.Results(results.read(out / "results.ndjson"))
    names = {(v.target, v.invariant): v.verdict for v in found.verdicts}
    assert names["timm==0.9.16", "strict-load"] == names["timm==0.9.16", "no-early-return"] == "known"
    assert {v for (t, _), v in names.items() if t != "timm==0.9.16"} == {"pass"}


def test_run_writes_its_files(clip_run):
    """A table, results with header and footer, a summary, JUnit."""
    done, out = clip_run
    assert "openai_clip" in done.stdout
    assert "clip-early-return" in done.stdout
    lines = (out / "results.ndjson").read_bytes().splitlines()
    records = list(results.decode(lines))
    assert len(records) == len(lines)
    assert isinstance(records[-1], results.Footer)
    assert sum(isinstance(r, results.Header) for r in records) == 3
    assert "| openai_clip | ~ 2 known | ✓ 2 pass | ✓ 2 pass |" in (out / "summary.md").read_text()
    assert 'name="timm==0.9.16" tests="2" failures="0" errors="0" skipped="2"' in (out / "junit.xml").read_text()


def test_without_a_ledger_the_bug_is_new_and_can_be_replayed(tmp_path):
    """A new failure ends the run with 1 and leaves a witness that replays: FAILS on the release, FIXED on the next."""
    select = ["--family", "openai_clip", "--invariant", "strict-load", "--profile", "smoke", "--ledger", "none"]
    done = cli("run", "timm==0.9.16", *select, "--out", str(tmp_path))
    assert done.returncode == 1
    assert "strict-load:openai_clip:size-mismatch:patch_embed.proj.weight" in done.stdout
    witness = next(tmp_path.glob("witnesses/*/*size-mismatch_patch_embed*.json"))
    assert f"timm-conformance replay {witness} timm==0.9.16" in done.stdout
    again = cli("replay", str(witness), "timm==0.9.16", "timm==1.0.31", "--ledger", "none")
    assert again.returncode == 1
    assert [line.split()[:2] for line in again.stdout.splitlines()] == [
        ["FAILS", "timm==0.9.16"],
        ["FIXED", "timm==1.0.31"],
    ]


def test_a_stale_ledger_entry_ends_the_run_with_1(tmp_path):
    """An entry whose witness passes inside its range is out of date, and said so."""
    from timm_conformance.ledger.entries import DEFAULT_LEDGER

    text = DEFAULT_LEDGER.read_text().replace('releases = ">=0.9.0,<1.0.3"', 'releases = ">=0.9.0"', 1)
    (tmp_path / "ledger.toml").write_text(text)
    (tmp_path / "witnesses").symlink_to(DEFAULT_LEDGER.parent / "witnesses")
    select = ["--family", "openai_clip", "--invariant", "strict-load", "--profile", "smoke"]
    done = cli("run", "timm==1.0.31", *select, "--ledger", str(tmp_path / "ledger.toml"), "--out", str(tmp_path / "o"))
    assert done.returncode == 1, done.stdout
    assert "witness clip-early-return no longer fails: narrow its ledger range" in " ".join(done.stdout.split())
