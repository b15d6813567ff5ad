"""Scripts for a model that is asked for with other options than the checkpoint's: what of the file is not in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..families import naflex_model
from ..ledger.witnesses import WitnessFile
from ..trials.asked import trained_tensors
from ..trials.problems import star_block_numbers
from . import assertions
from .script import Assertion
from .scriptable_case import Deviation, ScriptableCase

_EXPECTED = '"the trained tensors in the model, or a refusal that says what does not fit"'


def assertions_of(witness: WitnessFile, scripted: ScriptableCase) -> Iterator[tuple[Assertion, str]]:
    """What a script asserts of the created model, and a pattern of its output."""
    if witness.kind.startswith("raises-"):
        name = witness.kind.removeprefix("raises-")
        yield Assertion(_EXPECTED, ("got, bug = 'a model', False",), raised=f'type(error).__name__ == "{name}"'), name
        return
    given: Mapping[str, Any] = scripted.given  # may be nested
    for name in scripted.case.saved_entry:
        given = given[name]
    held = "tensors" if scripted.case.saved else "checkpoint"
    if scripted.family.unread:
        yield _nowhere(list(given)[:3], held), "nowhere in it$"
        return
    wanted = trained_tensors(scripted.trial)
    if witness.kind.startswith("nothing-used"):
        names = list(wanted)
    else:
        names = [name for name in wanted if star_block_numbers(name) == witness.tensor]
    if witness.kind == "value" and names:
        yield from _values(scripted, names[0], *wanted[names[0]])
    # A tensor that is resampled has no values of its own in the file.
    tensors = {key: value for key, value in given.items() if torch.is_tensor(value)}
    stored = [key for name in names if (key := _stored(tensors, wanted[name][0]))]
    if stored:
        yield _nowhere(stored[:3], held), "nowhere in it$"


def _stored(upstream: Mapping[str, Tensor], want: Tensor) -> str | None:
    """The name in the checkpoint of the tensor that has these values, beside others or not."""
    return next((k for k, v in upstream.items() if bool(torch.isin(want, v).all())), None)


def _nowhere(names: list[str], held: str) -> Assertion:
    """That none of these tensors of the checkpoint has one of its values in the model. ``held`` is the script's dict of them."""
    before = [f'names = ["{names[0]}"]'] if len(names) == 1 else ["names = [", *(f'    "{n}",' for n in names), "]"]
    lines = [
        "held = torch.cat([tensor.flatten().float() for tensor in model.state_dict().values()])",
        f"given = torch.cat([{held}[name].flatten().float() for name in names])",
        "bug = not bool(torch.isin(given[given != 0], held).any())",
        'got = f"a model, and {\' and \'.join(names)} nowhere in it" if bug else "a model that holds them"',
    ]
    return Assertion(_EXPECTED, lines, before, raised="False")


def _values(scripted: ScriptableCase, name: str, want: Tensor, bound: Tensor) -> Iterator[tuple[Assertion, str]]:
    """That a tensor holds other numbers than the checkpoint's."""
    created = scripted.trial.created_model.outcome
    if isinstance(created, Exception):
        return
    canonical = naflex_model.canonical if scripted.case.asks_for_naflex else scripted.family.canonical
    own = dict(created.state_dict())
    got = canonical(scripted.case, own).get(name)
    if name not in own or got is None or got.shape != want.shape or bool(want.isnan().any()):
        return
    allowed = torch.broadcast_to(bound, want.shape)
    error = (got.double() - want.double()).abs()
    worst = int((error - allowed).argmax())
    off, most = float(error.flatten()[worst]), float(allowed.flatten()[worst])
    if off > most:
        deviation = Deviation("value", name, got, want, worst, off, most)
        assertion = assertions.values(deviation, scripted.given, "model.state_dict()")
        yield Assertion(**{**vars(assertion), "raised": "False"}), f"got: +(?:other numbers|{name})"
