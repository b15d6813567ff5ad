"""What is drawn for a family, option by option: a registry for people, who cannot read it off a strategy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity

from ..families import Family
from .hypothesis_internals import seed_alone

# Enough for every value of every option of every family; a test holds it to twice as many.
_DRAWS = 150


def options_of(family: Family, draws: int = _DRAWS) -> Iterator[tuple[str, str, list[Any]]]:
    """Each option that is drawn for a family: where it belongs, its name, and its values.

    It belongs to the ``checkpoint`` (its architecture), to the model that is ``asked`` for in its place, or to the ``file`` and
    the way in which it is loaded.
    """
    archs = _architectures(family, draws)
    yield from (("checkpoint", name, values) for name, values in _values(archs))
    yield from (("asked", name, values) for name, values in _values(ask for arch in archs for ask in family.asks(arch)))
    for name, values in (("container", family.containers), ("wrapper", family.wrappers), ("door", family.doors)):
        yield "file", name, list(values)


def _architectures(family: Family, draws: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=draws,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(family.architectures)
    def collect(arch: dict[str, Any]) -> None:
        found.append(arch)

    with seed_alone():
        collect()
    return found


def _values(options: Iterable[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The values of each option, each once, in their own order where they have one."""
    found: dict[str, dict[str, Any]] = {}
    for each in options:
        for name, value in each.items():
            found.setdefault(name, {})[json.dumps(value)] = value
    return [(name, _ordered(list(values.values()))) for name, values in sorted(found.items())]


def _ordered(values: list[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)
