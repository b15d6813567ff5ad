"""The private part of Hypothesis that the suite uses: its own random provider, without constants of imported modules.

Hypothesis draws some values from constants in the source of imported local modules. With them, one seed gives other cases
in each process. Hypothesis has no setting that turns this off, so :func:`seed_alone` replaces one private method of its
provider. The part is checked when this module is imported, and each use checks that Hypothesis has called the replacement.
A Hypothesis in which the part has changed gives one line, and draws nothing.

The method is replaced in two ways. The provider that draws an example is another class, which does not ask for constants.
Hypothesis makes further providers of the original class: with one of them it chooses how an example first differs from the
earlier ones. There the method of the class itself is replaced while draws are made.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import hypothesis

from ..errors import UserError

SEEN = ("6.132.0", "6.140.0", "6.150.0", "6.160.0", "6.170.15", "6.170.17")
UNVARIED = "timm-conformance-unvaried"


def _changed(part: str) -> UserError:
    """The error for a Hypothesis in which ``part`` is not as in the versions seen."""
    return UserError(
        f"hypothesis {hypothesis.__version__} draws in another way than the suite knows ({part}), and a seed would not give "
        f"the same cases everywhere; it works with {SEEN[0]} to {SEEN[-1]}: pip install 'hypothesis=={SEEN[-1]}'"
    )


try:
    from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
except ImportError as error:
    raise _changed(str(error)) from None


class SeedAlone(HypothesisProvider):
    """Hypothesis's provider without constants from the source of imported modules; ``calls`` counts those it did not give."""

    calls = 0

    def _maybe_draw_constant(self, *_: object, **__: object) -> None:
        SeedAlone.calls += 1


def _no_constant(self: HypothesisProvider, *_: object, **__: object) -> None:
    """Take one random number, with which Hypothesis decides whether it wants a constant, and give none."""
    assert self._random is not None
    self._random.random()


class Unvaried(HypothesisProvider):
    """Hypothesis's provider under another name: Hypothesis then draws no variations on earlier draws."""


def check_parts() -> None:
    """Raise :class:`UserError`, one line, if the private part of Hypothesis is not as it was in the versions seen."""
    name = f"{HypothesisProvider.__module__}.{HypothesisProvider.__name__}"
    if AVAILABLE_PROVIDERS.get("hypothesis") not in (name, HypothesisProvider):
        raise _changed("HypothesisProvider is not its default provider")
    method = getattr(HypothesisProvider, "_maybe_draw_constant", None)
    if method is None or list(inspect.signature(method).parameters)[:3] != ["self", "choice_type", "constraints"]:
        raise _changed("HypothesisProvider has no _maybe_draw_constant(choice_type, constraints)")


@contextmanager
def seed_alone() -> Iterator[None]:
    """While open, Hypothesis's draws follow from the seed alone. Raises :class:`UserError` if they did not.

    The body must draw examples of several choices each: Hypothesis does not ask the provider for an example of one choice.
    """
    before = SeedAlone.calls
    with (
        patch.dict(AVAILABLE_PROVIDERS, hypothesis=f"{__name__}.{SeedAlone.__name__}"),
        patch.object(HypothesisProvider, "_maybe_draw_constant", _no_constant),
    ):
        yield
    if SeedAlone.calls == before:
        raise _changed("it no longer calls _maybe_draw_constant")


def register_unvaried() -> str:
    """Register :class:`Unvaried` with Hypothesis; returns the name to give as ``hypothesis.settings(backend=...)``."""
    AVAILABLE_PROVIDERS[UNVARIED] = f"{__name__}.{Unvaried.__name__}"
    return UNVARIED


check_parts()
