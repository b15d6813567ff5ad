"""New failures by cause, the same way in every report."""

from __future__ import annotations

from dataclasses import dataclass

from .records import Failure, Results


@dataclass(frozen=True)
class NewFailure:
    """A failure that no ledger entry explains, with the verdict that it belongs to."""

    target: str
    family: str
    invariant: str
    failure: Failure


@dataclass
class Group:
    """Failures with one cause, the clearest first, and the text of a script that reproduces them, if there is one."""

    failures: list[NewFailure]
    script: str = ""

    @property
    def shown(self) -> NewFailure:
        """The failure by which the cause is told."""
        return self.failures[0]

    @property
    def name(self) -> tuple[str, str]:
        """Target and fingerprint of the failure by which the cause is told."""
        return self.shown.target, self.shown.failure.fingerprint

    @property
    def targets(self) -> list[str]:
        """The targets on which it shows."""
        return list(dict.fromkeys(n.target for n in self.failures))

    @property
    def others(self) -> list[str]:
        """The fingerprints of its other failures."""
        names = dict.fromkeys(n.failure.fingerprint for n in self.failures)
        return [name for name in names if name != self.shown.failure.fingerprint]

    @property
    def cases(self) -> int:
        """How many drawn cases failed, counted once for each failure."""
        return sum(n.failure.count for n in self.failures)


def new_failures(results: Results) -> list[NewFailure]:
    """The failures that no ledger entry explains, in order of arrival."""
    failing = (v for v in results.verdicts if v.verdict == "fail")
    return [NewFailure(v.target, v.family, v.invariant, f) for v in failing for f in v.failures]


def by_cause(results: Results) -> list[Group]:
    """The new failures in groups of one cause. A failure whose cause was not looked for is a group by itself.

    What is told by the same failure on several targets is one cause. So is what happens to one tensor, if one diagnosis tells it.
    """
    known = {(n.target, n.failure.fingerprint): n for n in new_failures(results)}
    alone = dict(known)
    groups: dict[str, Group] = {}

    told: dict[tuple[str, str], str] = {}

    def add(failures: list[NewFailure], script: str = "") -> None:
        shown = failures[0].failure
        name, diagnosis = shown.fingerprint, shown.explanation.diagnosis
        if diagnosis:
            name = told.setdefault((shown.tensor, diagnosis), name)
        same = groups.setdefault(name, Group([]))
        same.failures.extend(failures)
        same.script = same.script or script  # the first failure alone may have none

    for cause in results.causes:
        found = [alone.pop((cause.target, f)) for f in cause.failures if (cause.target, f) in alone]
        if found:
            add(found, cause.script)
    for failure in alone.values():
        add([failure])
    return list(groups.values())


def counted(results: Results, noun: str = "failure") -> str:
    """How many failures and causes, for example ``12 failures, 3 causes``; empty without any."""
    groups = by_cause(results)
    count = sum(len(group.failures) for group in groups)
    return f"{count} {noun}{'s'[: count > 1]}, {len(groups)} cause{'s'[: len(groups) > 1]}" if groups else ""
