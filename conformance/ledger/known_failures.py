"""A repository's own known failures: invariants or fingerprints that its loader is known to fail, each with a reason.

The ledger holds the bugs of timm's releases, each with a witness. A user's loader has no releases. Its known failures work
like pytest's strict expected failures: they are reported as known, and a listed failure that no longer fails becomes
``fixed``, which fails the run.
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
        """Whether the key names exactly one family and invariant, in which something then has to fail."""
        return not set("*?") & {*self.invariant, *self.family}

    def claims(self, verdict: Verdict) -> bool:
        return _matches(verdict.invariant, self.invariant) and _matches(verdict.family, self.family)


class KnownFailures:
    """Known failures: a mapping of ``FAMILY:INVARIANT`` or a fingerprint, with the wildcards ``*`` and ``?``, to a reason."""

    def __init__(self, reasons: Mapping[str, str], families: Iterable[str], invariants: Iterable[str]) -> None:
        """Raises :class:`UserError` for a key with a name that does not exist."""
        self._known = [_parse(key, reason, list(families), list(invariants)) for key, reason in reasons.items()]

    def settle(self, verdict: Verdict) -> Verdict:
        """Apply this list to a verdict.

        The result is ``known`` if the list covers every failure; otherwise it fails with those that are not covered. It is
        ``fixed`` if a key names exactly this family and invariant, and no covered failure is left.
        """
        if verdict.verdict not in ("pass", "fail", "known"):
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
        cases["known"] += cases.pop("fail", 0)
        reason = "; ".join(k.reason for k in claiming if k.key in shown)
        return replace(verdict, verdict="known", failures=[], known=dict(shown), cases=dict(cases), reason=reason)


def _matches(text: str, pattern: str) -> bool:
    # A fingerprint ends in [regimes]; the brackets are literal, not a character set.
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
