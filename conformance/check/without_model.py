"""Files without any model: the state of an optimizer alone, or tensors without names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .explaining.keys import few
from .search import mappings, nameless

_MAX_NESTING = 4


def told(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a file without a model holds, and what to do, one line each; None for a file that may hold one."""
    named = dict(mappings(content))
    lists = nameless(content)
    optimizers = list(_optimizers(content, (), _MAX_NESTING))

    def outside(entry: tuple[str, ...]) -> bool:
        return not any(entry[: len(one)] == one for one in optimizers)

    if any(map(outside, named)):
        return None
    without = [one for one in lists if outside(one.keys)]
    if without:
        most = max(without, key=lambda one: len(one.tensors))
        return (
            f"it holds {most.text} and no model: names are lost",
            "take the checkpoint that the model was saved in; such a list goes into a model that is built already, in the order "
            "of model.parameters()",
        )
    if not optimizers:
        return None
    tensors = few([name for state in named.values() for name in state])
    where = ".".join(optimizers[0])
    held = f" ({', '.join(tensors)}{f' under {where}' if where else ''})" if tensors else ""
    return (
        f"it holds the state of an optimizer{held} and no model",
        "take the file that training saved the model in: an optimizer's state has none of its weights",
    )


def _optimizers(value: Any, keys: tuple[str, ...], depth: int) -> Iterator[tuple[str, ...]]:
    """The keys that lead to what ``torch.optim.Optimizer.state_dict()`` returns, in nested mappings."""
    if not isinstance(value, Mapping) or not depth:
        return
    if isinstance(value.get("state"), Mapping) and isinstance(value.get("param_groups"), list):
        yield keys
        return
    for key, inner in value.items():
        yield from _optimizers(inner, (*keys, str(key)), depth - 1)
