# /// script
# dependencies = ["nox>=2024.4.15"]
# ///
"""What CI does, each session a command a developer can run."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
# virtualenv and pip, not uv: the suite fetches releases with the session's own pip.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests", "gate"]

_PINNED = ("-c", "constraints.txt")
PROJECT = nox.project.load_toml("pyproject.toml")


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def gate(session: nox.Session) -> None:
    """Judge timm 0.9.16, timm 1.0.31 and the reference; further arguments go to `timm-conformance run`."""
    session.install("-e", ".", *_PINNED)
    session.run("timm-conformance", "run", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The project's own tests; further arguments go to pytest."""
    session.install("-e", ".", *_group("test"), *_PINNED)
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
    session.run("python", "-m", "conformance.alarm", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and import order."""
    session.install(*_group("lint"), *_PINNED)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
