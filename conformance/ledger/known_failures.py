"""A repository's own known failures: what its loader is known to get wrong, by name or fingerprint, and why.

The ledger holds the bugs of timm's releases, each with a witness. A loader of one's own has no releases, and its owner
wants what pytest calls an expected failure: it is told apart while it lasts, and has to go when it no longer fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from msgspec.structs import replace

from ..errors import UserError, unknown
from ..results.records import Verdict


@dataclass(frozen=True)
class _Known:
    key: str
    reason: str
    invariant: str
    family: str
    fingerprint: str

    @property
    def exact(self) -> bool:
        """Whether it names one cell, in which something then has to fail."""
        return not set("*?") & {*self.invariant, *self.family}

    def claims(self, verdict: Verdict) -> bool:
        return _matches(verdict.invariant, self.invariant) and _matches(verdict.family, self.family)


class KnownFailures:
    """``FAMILY:INVARIANT``, or a fingerprint, to the reason; ``*`` and ``?`` match any text in both."""

    def __init__(self, reasons: Mapping[str, str], families: Iterable[str], invariants: Iterable[str]) -> None:
        """Raises :class:`UserError` for a key that can match nothing because of a name that does not exist."""
        self._known = [_parse(key, reason, list(families), list(invariants)) for key, reason in reasons.items()]

    def settle(self, verdict: Verdict) -> Verdict:
        """A verdict as this list has it: ``known`` when it covers every failure, else failing with those it does not.

        ``fixed`` when a key names exactly this cell, and nothing it covers fails any more.
        """
        if verdict.verdict not in ("pass", "fail"):
            return verdict
        claiming = [k for k in self._known if k.claims(verdict)]
        left, shown = [], Counter(verdict.known)
        for failure in verdict.failures:
            owner = next((k for k in claiming if _matches(failure.fingerprint, k.fingerprint)), None)
            if owner is None:
                left.append(failure)
            else:
                shown[owner.key] += failure.count
        if left:
            return replace(verdict, failures=left, known=dict(shown))
        gone = [k for k in claiming if k.exact and k.key not in shown]
        if gone:
            reason = "; ".join(f"{k.key} no longer fails ({k.reason})" for k in gone)
            return replace(verdict, verdict="fixed", failures=[], known=dict(shown), reason=reason)
        if not verdict.failures:
            return verdict
        cases = Counter(verdict.cases)
        cases["known"] += cases.pop("fail")
        reason = "; ".join(k.reason for k in claiming if k.key in shown)
        return replace(verdict, verdict="known", failures=[], known=dict(shown), cases=dict(cases), reason=reason)


def _matches(text: str, pattern: str) -> bool:
    # A fingerprint ends in [regimes], which are no choice of letters.
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def _parse(key: str, reason: str, families: list[str], invariants: list[str]) -> _Known:
    first, _, rest = key.partition(":")
    if not (first and rest):
        raise UserError(f"known failure {key!r}: write FAMILY:INVARIANT, or a fingerprint INVARIANT:FAMILY:KIND:TENSOR")
    if ":" in rest:
        known = _Known(key, reason, first, rest.partition(":")[0], key)
    else:
        known = _Known(key, reason, rest, first, f"{rest}:{first}:*")
    for kind, name, registry in (("family", known.family, families), ("invariant", known.invariant, invariants)):
        if not any(_matches(entry, name) for entry in registry):
            raise UserError(f"known failure {key!r}: {unknown(kind, name, registry)}")
    return known
