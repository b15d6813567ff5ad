"""The workflow of .github/: it runs sessions and commands that exist, and its jobs fit together."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests.compat import environments
from timm_conformance.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/conformance.yml").read_text(encoding="utf-8"))
JOBS = WORKFLOW["jobs"]
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")
SESSIONS = set(re.findall(r"^@nox.session\n(?:@.*\n)*def (\w+)\(", NOXFILE, re.M)) | set(
    re.findall(r'name="([\w-]+)"', NOXFILE)
)


def commands():
    """Every line that a job runs, with the job's name."""
    for name, job in JOBS.items():
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                yield name, re.sub(r"\$\{\{.*?\}\}|\$\([^)]*\)", "1/4", line)


def test_every_session_it_runs_exists():
    """And it runs the ones that matter."""
    text = (ROOT / ".github/workflows/conformance.yml").read_text(encoding="utf-8")
    run = {name for names in re.findall(r"nox -s ([\w -]+?)(?= --|\n|\))", text) for name in names.split()}
    assert run <= SESSIONS
    assert run >= {"lint", "gate", "tests", "releases", "ci-matrix", "compat-matrix"}


def test_every_option_it_gives_is_one():
    """Arguments after a session's ``--`` go to run, to the matrix, or to merge."""
    seen = 0
    for _, line in commands():
        words = shlex.split(line.split("||")[0])
        if words[:2] == ["timm-conformance", "merge"]:
            arguments, command = words[2:], main.commands["merge"]
        elif words[:2] == ["nox", "-s"] and "--" in words and {"gate", "releases"} & set(words):
            arguments, command = words[words.index("--") + 1 :], main.commands["run"]
        else:
            continue
        seen += 1
        command.make_context(command.name, arguments, resilient_parsing=False)
    assert seen >= 5


def test_shards_are_matrixed_merged_and_kept():
    """The matrix is what ci-matrix prints; the merge job takes every shard's artifact, though a shard may have failed."""
    assert "nox -s ci-matrix" in next(s["run"] for s in JOBS["matrix"]["steps"] if s.get("id") == "matrix")
    assert "fromJSON(needs.matrix.outputs.matrix)" in JOBS["releases"]["strategy"]["matrix"]
    assert JOBS["releases"]["strategy"]["fail-fast"] is False
    upload = next(s for s in JOBS["releases"]["steps"] if "upload-artifact" in s.get("uses", ""))
    download = next(s for s in JOBS["merge"]["steps"] if "download-artifact" in s.get("uses", ""))
    name = upload["with"]["name"].replace("${{ matrix.index }}", "3")
    assert fnmatch(name, download["with"]["pattern"])
    assert "!cancelled()" in JOBS["merge"]["if"]


@pytest.mark.parametrize("job", [j for j in JOBS if j != "matrix"])
def test_every_job_keeps_its_results(job):
    """Artifacts whatever happens; a summary where there is one to read."""
    uploads = [s for s in JOBS[job]["steps"] if "upload-artifact" in s.get("uses", "")]
    assert [s["if"] for s in uploads] == ["always()"]
    if job != "releases":
        page = "compatibility.md" if job == "compat" else "summary.md"
        assert any(page in s.get("run", "") and "GITHUB_STEP_SUMMARY" in s["run"] for s in JOBS[job]["steps"])


def test_every_environment_is_run_beside_the_baseline():
    """The matrix is what compat-matrix prints of tests/compat/environments.toml; each has its Python, and the baseline's."""
    assert "nox -s compat-matrix" in next(s["run"] for s in JOBS["matrix"]["steps"] if s.get("id") == "environments")
    assert JOBS["matrix"]["outputs"]["environments"] == "${{ steps.environments.outputs.matrix }}"
    job = JOBS["compat"]
    assert job["strategy"]["matrix"] == "${{ fromJSON(needs.matrix.outputs.environments) }}"
    assert job["strategy"]["fail-fast"] is False
    pythons = [s["with"]["python-version"] for s in job["steps"] if "setup-python" in s.get("uses", "")]
    assert pythons == ["${{ matrix.python }}"]
    setup = yaml.safe_load((ROOT / ".github/actions/setup/action.yml").read_text(encoding="utf-8"))
    first, *others = environments.load().environment
    assert setup["runs"]["steps"][0]["with"]["python-version"] == first.python
    (command,) = (s["run"] for s in job["steps"] if "nox" in s.get("run", ""))
    words = shlex.split(command.replace("${{ matrix.name }}", others[0].name))
    assert words == [
        "nox",
        "-s",
        f"compat({first.name})",
        f"compat({others[0].name})",
        "--",
        first.name,
        others[0].name,
    ]


def test_the_matrix_names_every_environment_but_the_baseline():
    """As nox prints it."""
    done = subprocess.run(
        [sys.executable, "-m", "nox", "-s", "compat-matrix"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = [{"name": e.name, "python": e.python} for e in environments.load().environment[1:]]
    assert json.loads(done.stdout) == {"include": expected}


def test_a_release_or_a_commit_can_be_validated_by_hand():
    """What is given reaches the shell as an environment variable, never as text of the script."""
    inputs = WORKFLOW[True]["workflow_dispatch"]["inputs"]  # YAML 1.1 reads the key `on` as true
    assert inputs["timm"]["required"]
    scripts = [s.get("run", "") for s in JOBS["validate"]["steps"]]
    assert not any("inputs." in script for script in scripts)
    assert JOBS["validate"]["env"]["TIMM"] == "${{ inputs.timm }}"


def test_the_nightly_hunt_keeps_its_examples():
    """Restored before, saved after, even when the run failed."""
    steps = JOBS["deep"]["steps"]
    restore = next(s for s in steps if "cache/restore" in s.get("uses", ""))
    save = next(s for s in steps if "cache/save" in s.get("uses", ""))
    run = next(s for s in steps if "--profile deep" in s.get("run", ""))
    assert steps.index(restore) < steps.index(run) < steps.index(save)
    assert save["if"] == "always()"
    assert restore["with"]["path"] == save["with"]["path"] == "results/deep/witnesses"
    assert "--out results/deep" in run["run"]
    minutes = int(re.search(r"--minutes (\d+)", run["run"])[1])
    assert minutes <= JOBS["deep"]["timeout-minutes"] - 30, (
        "what is being judged when the time is over needs time to end"
    )


def test_the_readme_lists_the_inputs_of_the_action():
    """With their defaults, where these are names."""
    inputs = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["inputs"]
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| input | default |")[2].partition("\n\n")[0]
    rows = {row.split("|")[1].strip(): row.split("|")[2].strip(" `") for row in table.splitlines()[2:]}
    assert rows == {name: value["default"] or {"families": "all"}.get(name, "none") for name, value in inputs.items()}


def test_pre_commit_runs_the_ruff_of_lint():
    """Another version may format otherwise."""
    pinned = re.search(r"^ruff==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)[0]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==[\d.]+", hooks)) == {pinned}
