"""Profiles: how many cases a run draws."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import unknown


@dataclass(frozen=True)
class Profile:
    """A number of cases to draw in each stratum."""

    name: str
    cases: int


PROFILES = {p.name: p for p in (Profile("smoke", 1), Profile("gate", 2), Profile("deep", 40))}


def profile(name: str) -> Profile:
    """The profile of this name. Raises :class:`timm_conformance.errors.UserError`."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]
