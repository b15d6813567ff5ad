"""Targets and releases: parsing, fetching, and the mistakes a user can make, each one clear line."""

from __future__ import annotations

import importlib.util
import subprocess

import pytest

from timm_conformance.errors import UserError
from timm_conformance.targets import releases
from timm_conformance.targets.target import MODEL_RELEASE, parse_target


@pytest.mark.parametrize(
    ("spec", "kind", "value"),
    [
        ("timm==0.9.16", "timm", "0.9.16"),
        ("reference", "reference", ""),
        ("loader:package.module:function", "loader", "package.module:function"),
    ],
)
def test_targets_are_parsed(spec, kind, value):
    """Every form of the mini-language."""
    target = parse_target(spec)
    assert (target.kind, target.value, target.spec) == (kind, value, spec)


@pytest.mark.parametrize(
    ("suffix", "models"), [("", MODEL_RELEASE), ("@1.0.20", "1.0.20"), ("@installed", "installed")]
)
def test_a_loader_names_the_timm_of_its_models(monkeypatch, suffix, models):
    """loader:...@TIMM; the newest release the gate runs on where nothing is named."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    target = parse_target(f"loader:package.module:function{suffix}")
    assert (target.value, target.models) == ("package.module:function", models)
    assert target.spec == f"loader:package.module:function{suffix}"


def test_a_checkout_is_a_target(tmp_path):
    """path:DIR names the folder that holds the package timm."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").touch()
    assert parse_target(f"path:{tmp_path}").is_timm


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("timm==banana", "is no version"),
        ("path:/no/such/dir", "no timm/__init__.py"),
        ("loader:module", "loader:package.module:function"),
        ("loader:package.module:function@newest", "'newest' is no version"),
        ("timm=0.9", "targets are timm==VERSION"),
        ("refrence", "targets are timm==VERSION"),
    ],
)
def test_bad_targets_are_one_line(spec, says):
    """What, where, what to do."""
    with pytest.raises(UserError, match=says) as caught:
        parse_target(spec)
    assert "\n" not in str(caught.value)


def _pip(monkeypatch, tmp_path, stderr):
    monkeypatch.setenv("TIMM_CONFORMANCE_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", stderr))


@pytest.mark.parametrize(
    ("stderr", "says"),
    [
        ("ERROR: ... timm==0.9.17 (from versions: 0.9.12, 0.9.16, 1.0.3)\n", "no timm release 0.9.17.*timm==0.9.16"),
        ("ERROR: ... timm==0.9.17 (from versions: none)\n", "not in the cache .*network"),
        ("/usr/bin/python: No module named pip\n", "has no pip"),
    ],
)
def test_a_release_that_cannot_be_fetched(monkeypatch, tmp_path, stderr, says):
    """A release that does not exist, no network with an empty cache, no pip."""
    _pip(monkeypatch, tmp_path, stderr)
    with pytest.raises(UserError, match=says) as caught:
        releases.ensure("0.9.17")
    assert "\n" not in str(caught.value)


def test_the_nearest_of_a_release_that_is_not_there_yet_is_the_newest(monkeypatch, tmp_path):
    """And not the one of the likest numbers."""
    _pip(monkeypatch, tmp_path, "ERROR: ... timm==9.9 (from versions: 0.9.16, 1.0.3, 1.0.31)\n")
    with pytest.raises(UserError, match=r"the nearest is timm==1\.0\.31$"):
        releases.ensure("9.9")


def test_a_cached_release_needs_no_network(monkeypatch, tmp_path):
    """The cache is looked at first."""
    _pip(monkeypatch, tmp_path, "no network")
    (tmp_path / "0.9.16" / "timm").mkdir(parents=True)
    (tmp_path / "0.9.16" / "timm" / "__init__.py").touch()
    (tmp_path / "scratch").mkdir()
    assert releases.ensure("0.9.16") == tmp_path / "0.9.16"
    assert releases.cached() == ["0.9.16"]
