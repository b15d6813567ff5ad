"""Pinned cases: those that every profile judges in addition to those it draws.

The examples in ``fixtures/examples/FAMILY.json`` are Hypothesis's ``@example`` as data. A random draw hardly ever meets such a
case, for example one with as many register tokens as a whole grid. So are the witnesses of ledger entries that say ``pinned``:
every run meets their circumstances, on every target and with every ledger.
"""

from __future__ import annotations

from functools import cache

import msgspec

from ..cases.case import Case
from ..cases.fixtures import FIXTURES
from ..errors import UserError
from ..families import Family
from ..ledger.entries import DEFAULT_LEDGER, load_ledger

FOLDER = FIXTURES / "examples"


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A case, and why it is pinned."""

    why: str
    case: Case


def examples_of(family: Family) -> list[Example]:
    """A family's pinned examples; most families have none. Raises :class:`UserError` for a file that cannot be read."""
    path = FOLDER / f"{family.name}.json"
    if not path.is_file():
        return []
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[Example])
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"examples {path} cannot be read: {error}") from None
    strange = {example.case.family for example in found} - {family.name}
    if strange:
        raise UserError(f"examples {path} have a case of {strange.pop()}")
    return found


def pinned_cases(family: Family) -> list[Case]:
    """A family's examples, then its pinned witnesses; none twice. Raises :class:`UserError` for a file that cannot be read."""
    cases = [example.case for example in examples_of(family)] + [c for c in _witnesses() if c.family == family.name]
    return list({case.to_json(): case for case in cases}.values())


@cache
def _witnesses() -> list[Case]:
    known_bugs = load_ledger(DEFAULT_LEDGER)
    return [known_bugs.witnesses[entry.id].case for entry in known_bugs.entries if entry.pinned]
