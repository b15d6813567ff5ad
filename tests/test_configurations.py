"""The snapshot of published configurations is that of the packages, and what its page says of each is true."""

from __future__ import annotations

from importlib.metadata import version

import hypothesis
import pytest

from timm_conformance.drawing import configurations as published
from timm_conformance.drawing.catalogue import models_of
from timm_conformance.drawing.configurations import RULES, configurations, rule_for
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES

from .upstream import configurations as upstream

DECIDED = [
    (package, name, rule_for(package, name, options))
    for package, found in configurations().items()
    for name, options in found.items()
]


def test_the_snapshot_is_that_of_the_open_clip_it_names():
    """``nox -s upstream`` compares those of the other packages."""
    package, found = upstream.open_clip()
    if package not in configurations():
        pytest.skip(f"the snapshot is of another open_clip than {version('open_clip_torch')}")
    assert configurations()[package] == found
    assert sum("timm_model_name" in options for options in found.values()) == 78
    assert sum("timm_model_name" not in options for options in found.values()) == 66


def test_each_configuration_is_drawn_or_has_a_reason():
    for package, name, rule in DECIDED:
        if rule is None:
            assert any(name == model.name for family in FAMILIES.values() for model in models_of(family)), name
        else:
            assert bool(rule.family) != bool(rule.why), (package, name)


def test_each_rule_decides_about_a_configuration():
    used = {id(rule) for _, _, rule in DECIDED}
    assert [rule for rule in RULES if id(rule) not in used] == []


@pytest.mark.parametrize(
    "rule", [r for r in RULES if r.family], ids=lambda r: f"{r.family}-{'-'.join(map(str, r.arch))}"
)
def test_a_family_draws_what_the_page_says(rule):
    """A tower of these options is among those that the family's strategy gives."""

    def has_them(arch: dict) -> bool:
        return all(arch.get(name) == value for name, value in rule.arch.items())

    settings = hypothesis.settings(max_examples=500, database=None, derandomize=True)
    found = hypothesis.find(FAMILIES[rule.family].architectures, has_them, settings=settings)
    assert has_them(found)


def test_a_snapshot_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "PATH", tmp_path / "configurations.json")
    configurations.cache_clear()
    try:
        with pytest.raises(UserError, match=r"configurations\.json cannot be read: .*; restore it"):
            configurations()
    finally:
        configurations.cache_clear()
