"""The catalogue: mistakes of Vision Transformer checkpoint loaders that no general operator makes.

The operators do not depend on the text of a release, so they apply to any. The first is timm issue #2120;
``docs/mutation.md`` names the fixes of timm that the others resemble.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import libcst as cst
import libcst.matchers as m

_LAYOUT = {"T", "mT", "H"}
_HALF = cst.Attribute(cst.Name("torch"), cst.Name("float16"))
_IN_PLACE = {"unsqueeze", "squeeze", "transpose", "t", "add", "sub", "mul", "div"}
_PREFIX_COUNT = m.Name(m.MatchRegex(r"(num_prefix_tokens|num_extra_tokens|.*_prefix_tokens)"))
_MODES = {"'bicubic'": "'bilinear'", "'bilinear'": "'bicubic'", '"bicubic"': '"bilinear"', '"bilinear"': '"bicubic"'}


def early_return(node: cst.Assign) -> Iterator[cst.Return]:
    """``state_dict = _convert(state_dict)`` made ``return``: what is common to all formats comes after it (timm issue #2120)."""
    if m.matches(node, m.Assign([m.AssignTarget(m.Name("state_dict"))], m.Call(m.Name()) | m.DictComp())):
        yield cst.Return(node.value, whitespace_after_return=cst.SimpleWhitespace(" "))


def statement_removed(node: cst.BaseSmallStatement) -> Iterator[cst.Pass]:
    """An assignment, a call, a ``continue`` or ``break`` left out."""
    if isinstance(node, cst.Assign | cst.AugAssign | cst.Continue | cst.Break) or m.matches(node, m.Expr(m.Call())):
        yield cst.Pass()


def condition_forced(node: cst.If) -> Iterator[cst.If]:
    """A branch always taken, never taken, or taken where it should not be."""
    negated = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    for test in (cst.Name("True"), cst.Name("False"), cst.UnaryOperation(cst.Not(), negated)):
        yield node.with_changes(test=test, whitespace_before_test=cst.SimpleWhitespace(" "))


def filter_dropped(node: cst.CompFor) -> Iterator[cst.CompFor]:
    """A comprehension that takes everything."""
    if node.ifs:
        yield node.with_changes(ifs=[])


def branches_swapped(node: cst.If) -> Iterator[cst.If]:
    """A chain of conditions asked in another order: the more general format takes what belongs to the more special one."""
    other = node.orelse
    if isinstance(other, cst.If):
        first = other.with_changes(test=node.test, body=node.body)
        yield node.with_changes(test=other.test, body=other.body, orelse=first)


def elif_made_if(node: cst.If) -> Iterator[cst.If]:
    """``elif`` made ``if``: what one branch has converted is asked again, and may be converted twice."""
    if isinstance(node.orelse, cst.If):
        both = cst.IndentedBlock([node.with_changes(orelse=None), node.orelse])
        yield cst.If(cst.Name("True"), both)


def operand_dropped(node: cst.BooleanOperation) -> Iterator[cst.BaseExpression]:
    """One side of an ``and`` or ``or`` not asked for."""
    yield node.left
    yield node.right


def comparison_one_sided(node: cst.ComparisonTarget) -> Iterator[cst.ComparisonTarget]:
    """``!=`` made ``<`` or ``>``: only what grows, or only what shrinks, counts as another size."""
    if isinstance(node.operator, cst.NotEqual):
        for operator in (cst.LessThan, cst.GreaterThan):
            yield node.with_changes(operator=operator())


def pair_swapped(node: cst.Tuple | cst.List) -> Iterator[cst.CSTNode]:
    """Height and width exchanged; of three (q, k, v) or more, the first or last two."""
    values = [element.value for element in node.elements]
    if len(values) >= 2:
        for i in dict.fromkeys((0, len(values) - 2)):
            if not values[i].deep_equals(values[i + 1]):
                yield node.with_changes(elements=_swapped(node.elements, i))


def arguments_swapped(node: cst.Call) -> Iterator[cst.Call]:
    """Two neighbouring arguments exchanged: ``reshape(h, w)``, ``permute(0, 2, 3, 1)``."""
    for i, (one, other) in enumerate(zip(node.args, node.args[1:])):
        if not (one.keyword or other.keyword or one.star or other.star or one.value.deep_equals(other.value)):
            yield node.with_changes(args=_swapped(node.args, i))


def keyword_values_swapped(node: cst.Call) -> Iterator[cst.Call]:
    """Two neighbouring keyword arguments given each other's value: ``new_size=..., old_size=...``."""
    for i, (one, other) in enumerate(zip(node.args, node.args[1:])):
        if one.keyword and other.keyword and not one.value.deep_equals(other.value):
            yield node.with_changes(args=_swapped(node.args, i))


def layout_dropped(node: cst.Attribute) -> Iterator[cst.BaseExpression]:
    """A ``.T`` left out."""
    if node.attr.value in _LAYOUT:
        yield node.value


def method_dropped(node: cst.Call) -> Iterator[cst.BaseExpression]:
    """``x.transpose(0, 1)``, ``x.flatten(1)``, ``k.replace(a, b)``, ``x.to(dtype)`` left out: just ``x``."""
    if isinstance(node.func, cst.Attribute) and m.matches(
        node.func, m.Attribute(~m.Name("torch") & ~m.Name("F") & ~m.Name("np") & ~m.Name("math"))
    ):
        yield node.func.value


def method_in_place(node: cst.Call) -> Iterator[cst.Call]:
    """``v.unsqueeze(0)`` made ``v.unsqueeze_(0)``: the caller's own tensor changes shape."""
    if isinstance(node.func, cst.Attribute) and node.func.attr.value in _IN_PLACE:
        yield node.with_deep_changes(node.func.attr, value=f"{node.func.attr.value}_")


def input_emptied(node: cst.For) -> Iterator[cst.For]:
    """``for k, v in d.items()`` that takes each item out of the caller's dict on its way."""
    match = m.extract(
        node,
        m.For(
            m.Tuple([m.Element(m.Name()), m.ZeroOrMore()]),
            m.Call(m.SaveMatchedNode(m.Attribute(attr=m.Name("items")), "items")),
        ),
    )
    if match and isinstance(node.body, cst.IndentedBlock):
        owner = cst.ensure_type(match["items"], cst.Attribute).value
        key = cst.ensure_type(node.target, cst.Tuple).elements[0].value
        taken = cst.Expr(cst.Call(cst.Attribute(owner, cst.Name("pop")), [cst.Arg(key)]))
        body = node.body.with_changes(body=[cst.SimpleStatementLine([taken]), *node.body.body])
        yield node.with_changes(iter=cst.Call(cst.Name("list"), [cst.Arg(node.iter)]), body=body)


def sum_dropped(node: cst.BinaryOperation) -> Iterator[cst.BaseExpression]:
    """One term of a sum left out: a class position that is not added, a prefix that is not counted."""
    if isinstance(node.operator, cst.Add | cst.Subtract):
        yield node.left
        yield node.right


def slice_shifted(node: cst.Slice) -> Iterator[cst.Slice]:
    """``k[len(prefix):]``, ``v[:, 1:]`` cut one too late, or not at all."""
    for side in ("lower", "upper"):
        bound = getattr(node, side)
        if bound is not None:
            yield node.with_changes(**{side: None})
            yield node.with_changes(**{side: cst.BinaryOperation(bound, cst.Add(), cst.Integer("1"))})


def prefix_count(node: cst.Assign | cst.Arg) -> Iterator[cst.CSTNode]:
    """Another number of prefix tokens: none, one, one more."""
    name = node.keyword if isinstance(node, cst.Arg) else node.targets[0].target
    if name is not None and m.matches(name, _PREFIX_COUNT):
        value = node.value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        for new in (cst.Integer("0"), cst.Integer("1"), cst.BinaryOperation(value, cst.Add(), cst.Integer("1"))):
            if not new.deep_equals(node.value):
                yield node.with_changes(value=new)


def pinv_transposed(node: cst.Call) -> Iterator[cst.BaseExpression]:
    """The pseudo-inverse of the transpose, or transposed itself."""
    if m.matches(node.func, m.Attribute(attr=m.Name("pinv")) | m.Name("pinv")):
        first = node.args[0]
        bare = (
            first.value.value
            if isinstance(first.value, cst.Attribute) and first.value.attr.value == "T"
            else cst.Attribute(first.value, cst.Name("T"))
        )
        yield node.with_changes(args=[first.with_changes(value=bare), *node.args[1:]])
        yield cst.Attribute(node, cst.Name("T"))


def other_mode(node: cst.SimpleString) -> Iterator[cst.SimpleString]:
    """Bilinear for bicubic, and the reverse."""
    if node.value in _MODES:
        yield node.with_changes(value=_MODES[node.value])


def half_precision(node: cst.Call) -> Iterator[cst.Call]:
    """An intermediate result rounded to float16 before it is converted."""
    if isinstance(node.func, cst.Attribute) and node.func.attr.value in ("to", "float"):
        rounded = cst.Call(cst.Attribute(node.func.value, cst.Name("half")))
        yield node.with_changes(func=node.func.with_changes(value=rounded))


def prefix_anywhere(node: cst.Call) -> Iterator[cst.Call]:
    """A key's end looked at in place of its beginning, and the reverse."""
    if isinstance(node.func, cst.Attribute) and node.func.attr.value in ("startswith", "endswith"):
        other = {"startswith": "endswith", "endswith": "startswith"}[node.func.attr.value]
        yield node.with_deep_changes(node.func.attr, value=other)


def _swapped(items: Sequence, i: int) -> list:
    """The items with the values of number ``i`` and the next exchanged; commas and keywords stay where they are."""
    out = list(items)
    out[i], out[i + 1] = out[i].with_changes(value=items[i + 1].value), out[i + 1].with_changes(value=items[i].value)
    return out


CATALOGUE: tuple[tuple[type | tuple[type, ...], Callable[..., Iterable[cst.CSTNode]]], ...] = (
    (cst.Assign, early_return),
    (cst.BaseSmallStatement, statement_removed),
    (cst.If, condition_forced),
    (cst.CompFor, filter_dropped),
    (cst.If, branches_swapped),
    (cst.If, elif_made_if),
    (cst.BooleanOperation, operand_dropped),
    (cst.ComparisonTarget, comparison_one_sided),
    ((cst.Tuple, cst.List), pair_swapped),
    (cst.Call, arguments_swapped),
    (cst.Call, keyword_values_swapped),
    (cst.Attribute, layout_dropped),
    (cst.Call, method_dropped),
    (cst.Call, method_in_place),
    (cst.For, input_emptied),
    (cst.BinaryOperation, sum_dropped),
    (cst.Slice, slice_shifted),
    ((cst.Assign, cst.Arg), prefix_count),
    (cst.Call, pinv_transposed),
    (cst.SimpleString, other_mode),
    (cst.Call, half_precision),
    (cst.Call, prefix_anywhere),
)
