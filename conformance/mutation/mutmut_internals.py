"""The undocumented part of mutmut that the suite uses: its table of operators, ``mutmut.mutation.mutators.mutation_operators``.

mutmut is a command; it has no documented way to ask for the changes of one function. The table pairs a type of libcst node
with a function from such a node to its replacements. It is checked when this module is imported. A mutmut in which it has
changed gives one line, and no mutant is made: with other operators, a score would not be comparable with the stored ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

import libcst as cst

from ..errors import UserError

SEEN = ("3.8.0", "3.8.1")
# The functions' names in the versions seen, without ``operator_``.
NAMES = frozenset(
    {
        "arg_removal",
        "assignment",
        "augmented_assignment",
        "dict_arguments",
        "if_exp",
        "keywords",
        "lambda",
        "match",
        "name",
        "number",
        "remove_unary_ops",
        "string",
        "swap_op",
        "symmetric_string_methods_swap",
        "unsymmetrical_string_methods_swap",
    }
)
_PREFIX = "operator_"

Operator = Callable[[Any], Iterable[cst.CSTNode]]


def _changed(part: str) -> UserError:
    """The error for a mutmut in which ``part`` is not as in the versions seen."""
    return UserError(
        f"mutmut {version('mutmut')} has other operators than the suite knows ({part}); "
        f"it works with {SEEN[0]} to {SEEN[-1]}: pip install 'mutmut=={SEEN[-1]}'"
    )


try:
    from mutmut.mutation.mutators import mutation_operators
except ImportError as error:
    raise _changed(str(error)) from None


def operators() -> list[tuple[str, type[cst.CSTNode], Operator]]:
    """mutmut's operators in its own order: name, type of node, function. Raises :class:`UserError` if they have changed."""
    table: list[tuple[Any, Operator]] = list(mutation_operators)
    for kind, function in table:
        if not issubclass(kind, cst.CSTNode) or not function.__name__.startswith(_PREFIX):
            raise _changed("an entry of mutation_operators is not a type of node and an operator")
    names = {function.__name__.removeprefix(_PREFIX) for _, function in table}
    if names != NAMES:
        raise _changed(", ".join(sorted(names ^ NAMES)))
    return [(f.__name__.removeprefix(_PREFIX), kind, f) for kind, f in table]
