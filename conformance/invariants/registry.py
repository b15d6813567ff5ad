"""The registry of invariants: each has a name, a statement, one check function, and the regimes it must have judged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..families import Family
from ..targets.target import Target
from ..trials.problems import Problem
from ..trials.trial import Trial

Check = Callable[[Trial], Iterator[Problem]]
Applies = Callable[[Trial], str | None]


@dataclass(frozen=True)
class Invariant:
    """A statement that holds for every case of a correct loader.

    ``statement`` and ``catches`` are for the documentation. ``regimes`` are classes of cases that the invariant must have
    judged in a run; otherwise the run is vacuous. ``not_on_functions`` are those of them that it judges on timm and the
    reference only, because a function under test does not do what they ask for. ``concerns`` says whether it can judge
    cases of a family at all. ``applies`` returns the reason why the invariant does not apply to a case, or None where it
    applies. ``check`` yields the ways in which a case violates the invariant; it may raise
    :class:`timm_conformance.trials.loaded.Blocked`. ``timm_alone`` says that it judges timm's releases only.
    """

    name: str
    theme: str
    statement: str
    catches: str
    regimes: tuple[str, ...]
    applies: Applies
    check: Check
    concerns: Callable[[Family], bool] = lambda family: True
    not_on_functions: tuple[str, ...] = ()
    timm_alone: bool = False

    def judges(self, target: Target) -> bool:
        """Whether it can judge a target at all."""
        return target.is_timm or not self.timm_alone

    def regimes_on(self, target_kind: str) -> tuple[str, ...]:
        """The regimes that the invariant must have judged on a target of a kind."""
        if self.timm_alone and target_kind in ("reference", "loader"):
            return ()
        return tuple(r for r in self.regimes if target_kind != "loader" or r not in self.not_on_functions)


INVARIANTS: dict[str, Invariant] = {}


def invariant(
    *,
    statement: str,
    catches: str,
    regimes: tuple[str, ...] = (),
    applies: Applies = lambda trial: None,
    concerns: Callable[[Family], bool] = lambda family: True,
    not_on_functions: tuple[str, ...] = (),
    unread: bool = False,
    timm_alone: bool = False,
) -> Callable[[Check], Check]:
    """Register a check under its own name, hyphenated; its module is its theme. Refuses a name used twice.

    ``unread`` says that the invariant also judges families that a loader may refuse, ``timm_alone`` that it judges timm only.
    """

    def concerned(family: Family) -> bool:
        return (unread or not family.unread) and concerns(family)

    def register(check: Check) -> Check:
        name = check.__name__.replace("_", "-")
        theme = check.__module__.rsplit(".", 1)[-1]
        if name in INVARIANTS:
            raise ValueError(f"two invariants are named {name}")
        texts: dict[str, Any] = {"statement": statement, "catches": catches}
        for field, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                raise UserError(
                    f"invariant {name} in conformance/invariants/{theme}.py: {field} is empty; write a sentence"
                )
        if not isinstance(regimes, tuple):
            raise UserError(
                f"invariant {name} in conformance/invariants/{theme}.py: regimes is no tuple: ({regimes!r},)"
            )
        if not inspect.isgeneratorfunction(check):
            raise UserError(f"invariant {name} in conformance/invariants/{theme}.py yields nothing: yield a Problem")
        INVARIANTS[name] = Invariant(
            name, theme, statement, catches, regimes, applies, check, concerned, not_on_functions, timm_alone
        )
        return check

    return register


def unless(condition: Callable[[Trial], bool], reason: str) -> Applies:
    """An ``applies`` that holds only where ``condition`` does, with the reason where it does not."""
    return lambda trial: None if condition(trial) else reason


few_blocks = unless(
    lambda trial: "many-blocks" not in trial.regimes,
    "the case has many blocks, and native-identity compares every tensor of theirs by name",
)


def both(first: Applies, second: Applies) -> Applies:
    """An ``applies`` that holds where two others do, with the reason of the first that does not."""
    return lambda trial: first(trial) or second(trial)
