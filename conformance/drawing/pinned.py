"""Pinned examples: cases that every profile judges in addition to those it draws, from ``fixtures/examples/FAMILY.json``.

They are Hypothesis's ``@example`` as data. A random draw hardly ever meets such a case, for example one with as many register
tokens as a whole grid.
"""

from __future__ import annotations

import msgspec

from ..cases.case import Case
from ..cases.fixtures import FIXTURES
from ..errors import UserError
from ..families import Family

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
