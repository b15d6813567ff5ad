"""The reference's format of a family, and what a format must have. Each mistake is one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from ..families import Family
from ..reference import FORMATS, Format
from ..reference.formats.rules import Drop, Fill, Fold, Rename

_FIELDS = {"i", "n", "p", "rest", "any"}
_PATTERN = re.compile(r"\{(\w*)\}")


def format_of(family: Family) -> Format:
    """The format of a family's checkpoints. Raises :class:`UserError` if the reference has none of this name."""
    form = FORMATS.get(family.format)
    if form is not None:
        return form
    if family.shares_format:
        raise UserError(
            f"family {family.name!r}: shares_format is {family.shares_format!r}, and no format has this name"
        )
    raise UserError(
        f"family {family.name!r} has no format: add one with name={family.name!r} to reference/formats/{family.name}.py, "
        "or name in shares_format the family whose format it has"
    )


def check_format(form: Format) -> None:
    """Raise :class:`UserError` if a format lacks something, or if a rule cannot work in both directions."""
    fault = next(_faults(form), None)
    if fault:
        raise UserError(f"format {form.name!r} in reference/formats/: {fault}")


def _faults(form: Any) -> Iterator[str]:
    """What a format lacks."""
    if not isinstance(form.namespace, str):
        yield "namespace is no text; give the prefix of the image encoder's keys, empty if all keys are the encoder's"
    if not callable(form.evidence):
        yield "evidence is no function; write lambda state: KEY in state, with a key that no other format has"
    if not callable(form.forward):
        yield "forward is no function; write upstream's forward pass, forward(state_dict, image, arch)"
    if not isinstance(form.rules, tuple) or not form.rules:
        yield "rules is no tuple of rules; write for example (Rename(UPSTREAM, TIMM),)"
    else:
        yield from (fault for rule in form.rules for fault in _rule_faults(rule))


def _rule_faults(rule: Any) -> Iterator[str]:
    """What is wrong with a rule, by itself."""
    match rule:
        case Rename():
            sides: tuple[tuple[str, ...], ...] = ((rule.upstream,), (rule.timm,))
        case Fold():
            sides = rule.upstream, rule.timm
        case Fill():
            sides = ((rule.timm,),)
        case Drop():
            sides = ((rule.upstream,),)
        case _:
            yield f"{rule!r} is no rule; a rule is a Rename, Fold, Fill or Drop"
            return
    fields = [set(_PATTERN.findall(pattern)) for side in sides for pattern in side]
    unknown = set().union(*fields) - _FIELDS
    if unknown:
        yield f"{sides[0][0]!r} has the field {{{min(unknown)}}}; known are {', '.join(f'{{{f}}}' for f in sorted(_FIELDS))}"
    elif len({frozenset(found) for found in fields}) > 1:
        yield f"the patterns of {sides[0][0]!r} and {sides[-1][-1]!r} have other fields; they must have the same"
