"""Cases in which a ledger entry may show in a family, the likeliest first.

Drawn cases hardly ever meet some entries: a damage to one tensor of fifty, a window of 1x5. So the first cases have the geometry
of the entry's witness, and where the entry is about damage, the seeds that damage the tensors it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from itertools import chain, islice
from typing import Any

from msgspec.structs import replace

from ..cases.case import AMBIENT, DAMAGES, Case, Geometry
from ..cases.profiles import profile as profile_of
from ..drawing.drawing import Drawing
from ..drawing.pinned import examples_of
from ..drawing.strategies import Stratum, strata_of
from ..families import FAMILIES, Family
from ..ledger.entries import Entry
from ..trials.damage import EDITS
from ..trials.expectation import Expectation

# How many drawn cases to change to the witness's geometry.
_CHANGED = 30
# Seeds that damage a tensor which an entry names, for each case.
_SEEDS = 6
_OTHER_CLASSES = 7
# What create_model asks for where nothing else is said.
_CHANNELS = 3
# Grids whose rows pass for those of another grid, or of none, if a row of a prefix token is added or taken away.
_MISLEADING = ((5, 1), (3, 1), (1, 1), (2, 1))
# How many times to draw every stratum, each time with another seed.
_ROUNDS = 3


def candidates(entry: Entry, family: Family, witness: Case) -> Iterator[Case]:
    """Cases of a family to judge for an entry with this witness. Some may be outside the entry's regime."""
    changed = filter(None, (_like(witness, family, case) for case in islice(_drawn(family), _CHANGED)))
    pinned = (example.case for example in examples_of(family))
    for case in chain(pinned, changed, _drawn(family)):
        yield from _aimed(entry, family, witness, case)


def _drawn(family: Family) -> Iterator[Case]:
    """Focused draws of a family, made when they are asked for. Those of real sizes and native ones come first."""
    strata = sorted(strata_of(family), key=lambda stratum: (not stratum.native, stratum.sizes != "real"))
    return (case for seed in range(_ROUNDS) for stratum in strata for case in _more(family.name, seed, stratum))


@cache
def _more(family: str, seed: int, stratum: Stratum) -> list[Case]:
    return Drawing(profile_of("gate"), seed).more(FAMILIES[family], stratum)


def _like(witness: Case, family: Family, case: Case) -> Case | None:
    """A case with the geometry, dtype, declaration and wrapper of a witness; None if the family has no such geometry."""
    if not _has(family, witness.source, witness.destination):
        return None
    wrapper = witness.wrapper if witness.wrapper in family.wrappers else case.wrapper
    dtype = case.dtype if family.in_place else witness.dtype
    return replace(
        case,
        source=witness.source,
        destination=witness.destination,
        dtype=dtype,
        declared=witness.declared,
        wrapper=wrapper,
        in_chans=None,
        saved=witness.saved if "pth" in family.containers else "",
    )


def _has(family: Family, source: Geometry, destination: Geometry) -> bool:
    """Whether the family's checkpoints may have this change of geometry."""
    kept = source.patch_size == destination.patch_size
    square_patch = family.square_patch == "always" or (family.square_patch == "resampled" and not kept)
    squares: list[tuple[int, int]] = [source.patch_size] if square_patch else []
    squares += [source.grid_size] if family.square_source_grid else []
    squares += [source.grid_size, destination.grid_size] if family.square_grids == "always" else []
    grids = (*source.grid_size, *destination.grid_size)
    return (
        max(*source.patch_size, *destination.patch_size) <= family.max_patch
        and all(h == w for h, w in squares)
        and all(side % family.grid_multiple == 0 for side in grids)
    )


# Seeds among which one is of a wanted ambient state and among those that the invariants of these judge, one in three and in four.
_AMBIENT_SEEDS, _SAMPLED = 1000, 12
# Forms of a training checkpoint that no release opens in a family that opens an entry of that name.
_NESTED = ("state_dict.model+module._orig_mod.", "model_ema.module+_orig_mod.module.")


def _aimed(entry: Entry, family: Family, witness: Case, case: Case) -> Iterable[Case]:
    """The case; if the entry is about a door, damage or other options, the case with those that the entry names."""
    states = {condition.removeprefix("ambient-") for condition in entry.regime if condition.startswith("ambient-")}
    if states and len(states) == len(entry.regime):
        others = (replace(case, contents=replace(case.contents, seed=seed)) for seed in range(_AMBIENT_SEEDS))
        return islice((c for c in others if c.ambient in states and c.turn // len(AMBIENT) % _SAMPLED == 0), 1)
    if witness.door:
        case = case if case.container != "memory" else replace(case, container=family.containers[0])
        return [replace(case, door=witness.door, declared="true", asked={}, in_chans=None)]
    if witness.saved:
        plain = replace(case, container="pth", declared="true", asked={}, in_chans=None)
        forms = dict.fromkeys((witness.saved, *_NESTED))
        return [
            replace(plain, saved=form, num_classes=n) for form in forms for n in (witness.num_classes, _OTHER_CLASSES)
        ]
    asks = [p.startswith("trained-tensors-used:") for p in entry.shows]
    damages = [p.startswith(("refuses-", "untouched-after-refusal:value-changed:")) for p in entry.shows]
    if not all(either or other for either, other in zip(asks, damages)):
        return [case]
    damaged = islice(_with_damage(entry, Expectation(family, case)), _SEEDS) if any(damages) else ()
    return chain(damaged, _with_asks(family, witness, case) if any(asks) else ())


def _with_asks(family: Family, witness: Case, case: Case) -> Iterator[Case]:
    """The case in a file, asked for as the witness is: first with the same options, then with others."""
    if case.arch.get("in_chans", _CHANNELS) != _CHANNELS:
        return  # what comes of other channels would hide what comes of the options
    case = replace(case, declared="true", in_chans=None)
    if case.container == "memory" or case.saved:  # of these two, a .pth file alone has entries
        case = replace(case, container="pth" if case.saved else family.containers[0])
    found: list[dict[str, Any]] = [*family.asks(case.arch), {}]
    asks = sorted(found, key=lambda ask: (ask != witness.asked, ask.keys() != witness.asked.keys()))
    grids = [(case.source, case.destination)]
    for old in (Geometry(case.source.patch_size, grid) for grid in _MISLEADING):
        square = Geometry(old.patch_size, (2, 2))
        grids += [(old, new) for new in (old, square) if _has(family, old, new)]
    for old, new in grids:
        for classes in dict.fromkeys((witness.num_classes, _OTHER_CLASSES)):  # with other classes a load is not strict
            yield from (replace(case, source=old, destination=new, asked=ask, num_classes=classes) for ask in asks)


def _with_damage(entry: Entry, expectation: Expectation) -> Iterator[Case]:
    """The case with each seed whose damage is to a tensor that the entry shows."""
    case = expectation.case
    for number, damage in enumerate(DAMAGES):
        loaded = f"refuses-{'incomplete' if damage == 'missing' else 'misfits'}:{damage}-loaded"
        for place, edit in enumerate(EDITS[damage](expectation)):
            signatures = (f"{start}:{edit.tensor}" for start in (loaded, "untouched-after-refusal:value-changed"))
            if any(fnmatchcase(signature, pattern) for signature in signatures for pattern in entry.shows):
                seed = place * len(DAMAGES) + number
                yield replace(case, contents=replace(case.contents, seed=seed))
