# /// script
# dependencies = ["nox>=2024.4.15"]
# ///
"""What CI does, each session a command a developer can run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

import nox

nox.needs_version = ">=2024.4.15"
# virtualenv and pip, not uv: the suite fetches releases with the session's own pip.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests", "gate"]

ROOT = Path(__file__).resolve().parent
_PINNED = ("-c", "constraints.txt")
PROJECT = nox.project.load_toml("pyproject.toml")
COMPAT = {e["name"]: e for e in nox.project.load_toml("tests/compat/environments.toml")["environment"]}
COMPAT_RESULTS = ROOT / "results" / "compat"


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def gate(session: nox.Session) -> None:
    """Judge timm 0.9.16, timm 1.0.31 and the reference; further arguments go to `timm-conformance run`."""
    session.install("-e", ".", *_PINNED)
    session.run("timm-conformance", "run", *session.posargs)


@nox.session
def releases(session: nox.Session) -> None:
    """Judge every timm release from 0.9.0 on, and what else is named; further arguments go to `timm-conformance run`."""
    session.install("-e", ".", *_PINNED)
    session.run("timm-conformance", "run", "--releases", ">=0.9", "--out", "results/releases", *session.posargs)


@nox.session(name="ci-matrix", python=False)
def ci_matrix(session: nox.Session) -> None:
    """Print the shards of a run as the JSON of a CI matrix; the argument is how many (default 4)."""
    arguments = session.posargs or ["4"]
    if len(arguments) != 1 or not arguments[0].isdecimal() or not int(arguments[0]):
        session.error("write nox -s ci-matrix -- N, with N the number of shards")
    count = int(arguments[0])
    print(json.dumps({"include": [{"shard": f"{i}/{count}", "index": i} for i in range(1, count + 1)]}))


def _browser(session: nox.Session) -> None:
    """Debian's Chromium for the tests of report.html; where it cannot be installed they are skipped, visibly."""
    needed = ("chromium", "chromedriver")
    if not all(map(shutil.which, needed)) and shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {"external": True, "silent": True, "success_codes": range(256)}
        session.run("apt-get", "update", **quiet)
        install = ("apt-get", "install", "-y", "--no-install-recommends", "chromium", "chromium-driver")
        session.run(*install, env={"DEBIAN_FRONTEND": "noninteractive"}, **quiet)
    if not all(map(shutil.which, needed)):
        session.warn("no chromium and chromedriver: the report is not tested in a browser")


@nox.session
def tests(session: nox.Session) -> None:
    """The project's own tests; further arguments go to pytest."""
    session.install("-e", ".", *_group("test"), *_PINNED)
    _browser(session)
    session.run("pytest", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def upstream(session: nox.Session) -> None:
    """Real upstream models against the reference's forward and timm, see docs/upstream.md; further arguments go to pytest."""
    session.install("-e", ".", *_group("test"), *_group("upstream"), *_PINNED)
    packages = str(Path(session.virtualenv.location) / "upstream-packages")
    session.run("python", "-m", "tests.upstream.packages", packages)
    session.run("pytest", "tests/upstream", *session.posargs, env={"TIMM_CONFORMANCE_UPSTREAM": packages})


@nox.session
def alarm(session: nox.Session) -> None:
    """Name formats that timm releases know and no family covers; further arguments are targets (default: every release)."""
    session.install("-e", ".", *_PINNED)
    session.run("python", "-m", "timm_conformance.alarm", *session.posargs)


@nox.session
def history(session: nox.Session) -> None:
    """Hold the ledger to what timm's releases show, and write docs/history.md and docs/claims.md; --releases SPEC, --entry ID."""
    session.install("-e", ".", *_PINNED)
    session.run("python", "-m", "timm_conformance.history", *(session.posargs or ["--write"]))


@nox.session
def fuzz(session: nox.Session) -> None:
    """Look for files that our own code does not survive; further arguments, --minutes M --seed N, go to the fuzzer."""
    session.install("-e", ".", *_group("test"), *_PINNED)
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def cuda(session: nox.Session) -> None:
    """All that needs a GPU, see docs/cuda.md: its tests, and the gate there and on the CPU; arguments go to the gate."""
    session.install("-e", ".", *_group("cuda"), *_PINNED)
    session.run("python", "-m", "tests.cuda_run", "results/cuda", "--", *session.posargs)


@nox.session(name="cuda-bundle")
def cuda_bundle(session: nox.Session) -> None:
    """Gather in build/cuda-bundle what tests/cuda_run.sh needs where there is no network; arguments: --python V --torch V."""
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], *_group("cuda")]
    session.run("python", "-m", "tests.cuda_bundle", "build/cuda-bundle", *session.posargs, "--", *needed)


def _project_name(requirement: str) -> str:
    """The name of a requirement, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]*", requirement)[0]).lower()


def _constraints(session: nox.Session, environment: dict) -> tuple[str, ...]:
    """pip's options for constraints.txt without what the environment itself names."""
    if not environment.get("constraints", True):
        return ()
    named = {_project_name(package) for package in environment["packages"]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.startswith("#") or _project_name(line) not in named]
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return ("-c", str(path))


def _try_to_install(session: nox.Session, *arguments: str) -> str:
    """Install with pip; returns why that is not possible, in one line, or nothing."""
    log = Path(session.create_tmp()) / "pip.log"
    with open(log, "w", encoding="utf-8") as output:
        try:
            command = ("python", "-m", "pip", "install", *arguments)
            session.run_install(*command, stdout=output, stderr=subprocess.STDOUT)
        except nox.command.CommandFailed:
            told = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("ERROR: ")]
            return told[-1].removeprefix("ERROR: ") if told else "pip failed and gave no reason"
    return ""


@nox.session
@nox.parametrize("python,environment", [nox.param(e["python"], n, id=n) for n, e in COMPAT.items()])
def compat(session: nox.Session, environment: str) -> None:
    """The suite and a core of its tests with other versions, see docs/compatibility.md; arguments: names of environments."""
    unknown = sorted({*session.posargs} - {*COMPAT})
    if unknown:
        session.error(f"no environment is named {', '.join(unknown)}; there are {', '.join(COMPAT)}")
    if session.posargs and environment not in session.posargs:
        session.skip("not asked for")
    told, folder = COMPAT[environment], COMPAT_RESULTS / environment
    shutil.rmtree(folder, ignore_errors=True)
    session.notify("compat-page", session.posargs)
    upgrade = ("--upgrade", "--upgrade-strategy", "eager") if told.get("upgrade") else ()
    packages = ("-e", ".", *_group("compat"), *told["packages"])
    missing = _try_to_install(session, *upgrade, *packages, *_constraints(session, told))
    if missing:
        folder.mkdir(parents=True)
        (folder / "missing.txt").write_text(missing + "\n", encoding="utf-8")
        session.skip(f"{environment} cannot be installed: {missing}")
    session.run("python", "-m", "tests.compat.record", environment, str(COMPAT_RESULTS))


@nox.session(name="compat-page")
def compat_page(session: nox.Session) -> None:
    """Compare what `nox -s compat` found with its baseline, and write docs/compatibility.md, if it ran every environment."""
    session.install("-e", ".", *_PINNED)
    page = (COMPAT_RESULTS if session.posargs else ROOT / "docs") / "compatibility.md"
    session.run("python", "-m", "tests.compat", str(COMPAT_RESULTS), str(page))


@nox.session(name="compat-matrix", python=False)
def compat_matrix(session: nox.Session) -> None:
    """Print the environments of `nox -s compat`, all but the baseline, as the JSON of a CI matrix."""
    others = list(COMPAT.values())[1:]
    print(json.dumps({"include": [{"name": e["name"], "python": e["python"]} for e in others]}))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the harness, the reference, the first verdicts and how a run grows, see docs/performance.md; --only PART."""
    session.install("-e", ".", *_PINNED)
    session.run("python", "-m", "timm_conformance.bench", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Break the loaders of timm 1.0.31, timm 0.9.16 and the reference, and count what is noticed; arguments go to the command."""
    session.install("-e", ".[mutants]", *_PINNED)
    session.run("timm-conformance", "mutants", *(session.posargs or ("timm==1.0.31", "timm==0.9.16", "reference")))


def _package(session: nox.Session) -> Path:
    """A folder that holds the package as it is imported, made of links.

    import-linter and mypy read files by their place, and know nothing of the mapping in setup.py.
    """
    parent = Path(session.create_tmp()).resolve()
    shutil.rmtree(parent / "timm_conformance", ignore_errors=True)
    (parent / "timm_conformance").mkdir()
    for path in (*ROOT.joinpath("conformance").iterdir(), ROOT / "reference"):
        (parent / "timm_conformance" / path.name).symlink_to(path)
    return parent


@nox.session
def lint(session: nox.Session) -> None:
    """Style, layers of imports, types."""
    session.install("-e", ".", *_group("lint"), *_PINNED)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    config, package = str(ROOT / "pyproject.toml"), _package(session)
    session.run("lint-imports", config, env={"PYTHONPATH": str(package)})
    with session.chdir(package):
        session.run("mypy", "--config-file", config, "-p", "timm_conformance")


def _contents(wheel: Path) -> list[str]:
    return sorted(ZipFile(wheel).namelist())


# What a wheel must be able to do in an empty folder: arguments, and the exit code where it is not 0.
_FEW = ("--family", "openai_clip", "--profile", "smoke")
_CHECKED = "vit_tiny_patch16_224.augreg_in21k"
_MAIN_COMMANDS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("timm-conformance", "--help"), 0),
    (("timm-conformance", "--version"), 0),
    (("timm-conformance", "doctor"), 0),
    (("timm-conformance", "list", "families"), 0),
    (("timm-conformance", "list", "invariants"), 0),
    (("timm-conformance", "list", "ledger"), 0),
    (("timm-conformance", "run", "reference", *_FEW), 0),
    (("timm-conformance", "run", "timm==0.9.16", *_FEW, "--out", "results/0.9.16"), 0),
    (("timm-conformance", "report", "results/0.9.16"), 0),
    (("timm-conformance", "replay", "clip-early-return", "timm==0.9.16"), 0),
    (("timm-conformance", "repro", "clip-early-return", "-o", "repro.py"), 0),
    (("timm-conformance", "vectors", "--check"), 0),
    (("timm-conformance", "vectors"), 2),  # a checkout's are written by default
    (("python", "-m", "timm_conformance.cli.docs"), 2),  # as are its pages
    (("timm-conformance", "check", "tiny.safetensors", "--model", _CHECKED), 0),
    (("pytest", "--pyargs", "timm_conformance.suite", "--vit-target", "reference", "--vit-family", "openai_clip"), 0),
)
# A checkpoint of a real model, with random weights.
_CHECKPOINT = f"""
from timm_conformance.targets.target import activate, parse_target
activate(parse_target("timm==1.0.31"))
import timm
from safetensors.torch import save_file
save_file(timm.create_model("{_CHECKED}").state_dict(), "tiny.safetensors")
"""


@nox.session
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel in dist/, install the wheel, and run the main commands in an empty folder."""
    session.install(*_group("build"), *_PINNED)
    scratch = Path(session.create_tmp()).resolve()
    for folder in (ROOT / "dist", scratch):
        shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")  # the sdist, and the wheel from it
    session.run("python", "-m", "build", "--wheel", "--outdir", str(scratch / "direct"))
    (wheel,), (direct,) = (ROOT / "dist").glob("*.whl"), (scratch / "direct").glob("*.whl")
    if _contents(wheel) != _contents(direct):
        differing = sorted({*_contents(wheel)} ^ {*_contents(direct)})
        session.error(f"the sdist and the checkout build wheels of different files: {', '.join(differing)}")
    session.run("python", "-m", "venv", str(scratch / "venv"))
    programs, empty = scratch / "venv" / "bin", scratch / "empty"
    session.run(str(programs / "python"), "-m", "pip", "install", "--quiet", str(wheel), *_PINNED, external=True)
    empty.mkdir()
    with session.chdir(empty):
        session.run(str(programs / "python"), "-c", _CHECKPOINT, external=True)
        for (program, *arguments), code in _MAIN_COMMANDS:
            session.run(str(programs / program), *arguments, external=True, success_codes=[code])


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site in build/site; further arguments go to `mkdocs build`."""
    session.install(*_group("docs"), *_PINNED)
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})
