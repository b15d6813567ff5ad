"""Standalone scripts: every known bug can be written out as one, it needs torch and timm alone, and it tells releases apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from timm_conformance.cases.fixtures import FIXTURES
from timm_conformance.cli.main import main
from timm_conformance.errors import UserError
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.ledger.witnesses import WitnessFile
from timm_conformance.probes.registry import ask, faults
from timm_conformance.repro import source_code, verification
from timm_conformance.repro.execution import ScriptRun, execute
from timm_conformance.repro.generate import Attempt, find_script, run_here, shows
from timm_conformance.repro.script import About
from timm_conformance.repro.verification import verified_script
from timm_conformance.repro.worker import Answer, Stored, request_scripts
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target

BOOK = load_ledger(DEFAULT_LEDGER)
OLD, NEW = "0.9.16", MODEL_RELEASE
# About 60: what reads a file, or shows a forward, has a few more.
_LONGEST = 70
_RELPOS = ("relpos-rows-pass-for-square", "relpos-rows-pass-for-square-reloaded")


def active(release: str) -> list[Stored]:
    return [
        Stored(e.id, BOOK.witnesses[e.id], e.title, [e.explanation])
        for e in BOOK.active(Version(release), faults(ask()))
        if e.regime != ["off-cpu"]  # they do not show on the CPU
        and e.concerns(BOOK.witnesses[e.id].case.family)
    ]


@pytest.mark.parametrize("release", [OLD, NEW])
def test_every_known_bug_can_be_written_out(release, tmp_path) -> None:
    """None of the ledger is too odd for a page of code that needs torch and timm alone, and that a linter passes."""
    answers = request_scripts(parse_target(f"timm=={release}"), active(release), 300)
    assert [a.names for a in answers if not a.text] == []
    for answer in answers:
        lines = answer.text.splitlines()
        assert len(lines) <= _LONGEST, answer.names
        assert max(map(len, lines)) <= 125, answer.names
        imported = re.findall(r"^(?:import|from) (\w+)", answer.text, re.M)
        assert set(imported) <= {"functools", "sys", "tempfile", "numpy", "safetensors", "timm", "torch"}
        assert re.search(rf'^# dependencies = \["torch==[\d.]+", "timm=={release}"\]$', answer.text, re.M)
        (tmp_path / f"{answer.names[0]}.py").write_text(answer.text, encoding="utf-8")
    _in_the_same_place(answers)
    linter = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E4,E7,E9,F", str(tmp_path)]
    done = subprocess.run(linter, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _in_the_same_place(answers: list[Answer]) -> None:
    """What the ledger calls the view of another bug shares its script, and other bugs of one line do not."""
    places = {name: a for a in answers for name in a.names}
    for name, view in (("torch-antialias-column", "torch-antialias-column-transposed"), _RELPOS):
        if name in places:
            assert view in places[name].names
    if "clip-early-return" in places:
        early, grid = places["clip-early-return"], places["clip-grid-not-antialiased"]
        assert early is not grid
        assert "return _convert_openai_clip(state_dict, model)" in early.ended
        assert early.ended == grid.ended
        assert [line for line in grid.resampled if "v = resize_pos_embed(" in line]


# -- handing out -------------------------------------------------------------------------------------------------------


def repro(*args: str):
    return CliRunner().invoke(main, ["repro", *args])


def test_the_script_of_2120_tells_the_releases_apart(tmp_path) -> None:
    """By the number everybody knows it by: 1 on 0.9.16, 0 on 1.0.31, as whoever runs the file sees it."""
    done = repro("2120", "-o", str(tmp_path / "repro.py"))
    assert done.exit_code == 0, done.output
    assert "clip-early-return on timm==0.9.16: exit code 1" in done.stderr
    script = (tmp_path / "repro.py").read_text()
    codes = {release: execute(script, parse_target(f"timm=={release}"), 120).code for release in (OLD, NEW)}
    assert codes == {OLD: 1, NEW: 0}


def test_an_issue_says_what_why_where_and_how(tmp_path) -> None:
    """Text that can be filed: every part of it, the line of the loader and the script among them."""
    done = repro("clip-grid-not-antialiased", "--issue")
    assert done.exit_code == 0, done.output
    parts = re.split(r"^## ", done.stdout, flags=re.M)
    assert [p.splitlines()[0] for p in parts[1:]] == [
        "What happens",
        "What should happen",
        "Why",
        "Releases",
        "To reproduce",
    ]
    _, happens, should, why, affected, script = parts
    assert "pos_embed[" in happens
    assert "pos_embed[" in should
    assert "in _convert_openai_clip: v = resize_pos_embed(" in why
    assert ">=0.9.0,<1.0.3" in affected
    assert "timm.create_model(" in script


@pytest.fixture
def witness(tmp_path) -> Path:
    path = tmp_path / "witness.json"
    path.write_text(json.dumps(json.loads((FIXTURES / "witnesses" / "clip-early-return.json").read_text())))
    return path


def test_a_stored_witness_has_a_script_of_its_own(witness) -> None:
    """A failure that no ledger knows is described by the invariant it violates and the releases at hand that show it."""
    done = repro(str(witness), "--target", f"timm=={OLD}")
    assert done.exit_code == 0, done.output
    assert "The invariant it violates, strict-load:" in done.stdout
    assert execute(done.stdout, parse_target(f"timm=={NEW}"), 120).code == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["clip-early-retrun"], "did you mean 'clip-early-return'?"),
        (["99999"], "no ledger entry links issue #99999\nnearest by number: #"),
        (["missing.json", "--target", "reference"], "witness missing.json"),
        (["{witness}"], "which target does it fail on? Name it with --target"),
        (["{witness}", "--target", f"timm=={NEW}"], f"does not show on timm=={NEW}"),
        (["clip-early-return", "--target", f"timm=={NEW}"], "the ledger knows it in timm >=0.9.0,<1.0.3"),
        (
            ["clip-early-return", "-o", "no-such-folder/a.py"],
            "-o no-such-folder/a.py: there is no folder no-such-folder",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_exit_2(args, says, witness) -> None:
    """Nothing is handed out that was not seen to fail."""
    done = repro(*(a.format(witness=witness) for a in args))
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 + says.startswith("no ledger entry") * 2
    assert "import" not in done.stdout


@pytest.fixture
def generated(monkeypatch):
    """What the generator would hand over."""
    answer = Answer(["clip-early-return"], "raise SystemExit(1)", "patch_embed")
    monkeypatch.setattr(verification.worker, "request_scripts", lambda target, failures, timeout: [answer])
    entry = BOOK.entry("clip-early-return")
    return partial(verified_script, entry.id, BOOK.witnesses[entry.id], entry, target(), 120)


def test_a_script_that_fails_for_another_reason_is_not_handed_out(monkeypatch, generated) -> None:
    """Exit 1 is not enough: a traceback has it too. Neither the one written by hand nor the other."""
    ran = []

    def executed(text, target, timeout):
        ran.append(text)
        return ScriptRun(1, "Traceback (most recent call last):\nImportError: no timm")

    monkeypatch.setattr(verification, "execute", executed)
    with pytest.raises(UserError, match="does not show"):
        generated()
    assert len(ran) == 2


def test_a_script_that_a_mended_release_does_not_pass_is_not_handed_out(monkeypatch, generated) -> None:
    """It would accuse every release."""
    monkeypatch.setattr(
        verification, "execute", lambda text, target, timeout: ScriptRun(1, "got: patch_embed.proj.weight")
    )
    with pytest.raises(UserError, match="does not show"):
        generated()


def target():
    return parse_target(f"timm=={OLD}")


def test_a_script_that_hangs_has_an_end() -> None:
    """Its end is no verdict."""
    ran = execute("import time; time.sleep(60)", target(), 1)
    assert ran.code == -1
    assert ran.got == "no end within 1 s"


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_writes_a_script_for_each_cause(project) -> None:
    """A loader of somebody's own, imported by the script as the user imports it; what an earlier run left is gone."""
    project.write("out/repro/loader_mypackage.loading_returns_early/of_yesterday.py", "")
    spec = "loader:mypackage.loading:returns_early"
    chosen_invariants = [f"--invariant={name}" for name in ("strict-load", "no-early-return", "reference-agreement")]
    chosen = ["--family", "openai_clip", "--profile", "smoke", *chosen_invariants]
    done = project.run("-m", "timm_conformance.cli.main", "run", spec, *chosen, "--out", "out")
    assert done.returncode == 1, done.stdout + done.stderr
    scripts = sorted((project.folder / "out" / "repro").glob("*/*.py"))
    witnesses = list((project.folder / "out" / "witnesses").glob("*/*.json"))
    assert 0 < len(scripts) < len(witnesses)
    assert re.search(r"^    also +\d+ more: ", done.stdout, re.M)
    assert all(script.name in done.stdout for script in scripts)
    assert "of_yesterday.py" not in [s.name for s in scripts]
    text = scripts[0].read_text()
    assert "from mypackage.loading import returns_early" in text
    replayed = project.run("-m", "timm_conformance.cli.main", "replay", "out/witnesses", spec)
    assert replayed.stdout.count("FAILS") == len(witnesses)


def test_a_folder_without_witnesses_is_a_mistake(tmp_path) -> None:
    """Nothing replayed must not look like nothing failed."""
    done = CliRunner().invoke(main, ["replay", str(tmp_path), "reference"])
    assert done.exit_code == 2
    assert "no witness in it" in done.stderr


# -- plain code --------------------------------------------------------------------------------------------------------

_NAMES = st.lists(
    st.from_regex(r"\A(a\.)?(blocks[._][0-9]{1,2}[./])?[a-c]{1,3}\.(weight|bias)\Z"),
    min_size=1,
    max_size=40,
    unique=True,
)


@given(_NAMES, st.sampled_from(["float32", "float16", "bfloat16"]), st.booleans())
def test_plain_code_draws_just_these_tensors(names, dtype, in_order) -> None:
    """Every name with its shape and dtype, however many share a beginning, and in order where that is the point."""
    state = {n: torch.arange(len(n) * 2).reshape(2, -1).to(getattr(torch, dtype)) for n in names}
    drawn = source_code.evaluate(source_code.checkpoint(state, dtype, in_order))
    assert {k: (v.shape, v.dtype) for k, v in drawn.items()} == {k: (v.shape, v.dtype) for k, v in state.items()}
    if in_order:
        assert list(drawn) == names


def test_plain_code_keeps_what_is_no_matter_of_chance() -> None:
    """Zeros, constants and integers stay, in long checkpoints too; a variance stays positive."""
    state = {f"blocks.{i}.weight": torch.randn(3) for i in range(20)}
    state |= {"zero": torch.zeros(2), "half": torch.full((2,), 0.5), "index": torch.tensor([[1, 2]])}
    state |= {"norm.running_var": torch.tensor([0.25, 4.0])}
    drawn = source_code.evaluate(source_code.checkpoint(state, "float32"))
    for name in ("zero", "half", "index"):
        assert torch.equal(drawn[name], state[name])
    assert bool((drawn["norm.running_var"] > 0).all())


def test_a_witness_of_a_family_a_release_does_not_know_has_no_script(tmp_path) -> None:
    """Not a traceback of the worker's."""
    case = BOOK.witnesses["pe-early-return"].case
    stored = Stored("early", WitnessFile("strict-load", "size-mismatch", "patch_embed.proj.weight", case))
    (answer,) = request_scripts(target(), [stored], 120)
    assert answer.text == ""


def test_a_script_that_accuses_whatever_it_is_given_shows_nothing() -> None:
    """It names the tensor, and it ends with 1: with the reference in the place of timm's loader too."""
    loader = Loader(parse_target(f"timm=={NEW}"))
    witness = BOOK.witnesses["legacy-linear-grid-assumed-square"]
    accusing = Attempt('import sys\nprint("got: pos_embed")\nsys.exit(1)', "pos_embed")
    assert run_here(accusing.text) == (1, "got: pos_embed\n")
    assert not shows(accusing, witness, loader)
    about = About("A title", [], [])
    assert shows(find_script(witness, loader, about), witness, loader)
