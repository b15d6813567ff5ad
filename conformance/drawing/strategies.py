"""Hypothesis strategies for cases. They draw the structure of a case and never the floats in its tensors.

Cases are drawn stratum by stratum. A stratum fixes how patch and grid change, so even a short run meets every regime. The rest
is free inside a stratum: sizes, architecture, dtype, wrapper, declared input size, contents.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any
from zlib import crc32

from hypothesis import strategies as st
from msgspec.structs import replace

from ..cases.case import (
    CONTENTS,
    DECLARED,
    FORWARD_DOORS,
    NOT_FILES,
    SAVED_ENTRIES,
    SAVED_PREFIXES,
    VARIED,
    Case,
    Contents,
    Geometry,
    Size,
)
from ..families import Family
from .catalogue import RealModel, models_of

MAX_PATCH = 32
MAX_GRID = 8
# A loader's pseudo-inverse takes up to a second at 32x32 -> 32x32. The resize matrix of a free draw has at most this many
# entries. Those of the "large" stratum and of real sizes may have more.
_CHEAP_MATRIX = 4096
# So many blocks that their numbers have two digits.
_MANY_BLOCKS = 11


@dataclass(frozen=True)
class Stratum:
    """How patch and grid change. ``sizes`` is "free", "large" or "real" (those of a registered timm model).

    ``many_blocks`` gives every model eleven blocks, and no other options than the checkpoint's; at least one case is drawn,
    whatever the weights.
    ``weight`` multiplies the number of cases that a profile draws. It is high for native sizes, the only ones at which identity
    and forward laws hold. It is low for large patches, whose pseudo-inverse may take a second.
    """

    name: str
    patch: str
    grid: str
    sizes: str = "free"
    weight: float = 1
    many_blocks: bool = False

    @property
    def native(self) -> bool:
        """Whether patch and grid stay the same. Such models are run, so their tokens must not be all equal."""
        return self.patch == self.grid == "native"


_RELATIONS = ("native", "grow", "shrink", "mixed")


def _combination(patch: str, grid: str) -> Stratum:
    """A stratum. It has half the cases if both patch and grid change and one of them unevenly, which is rare in practice."""
    uneven = "native" not in (patch, grid) and (patch == "mixed" or grid in ("mixed", "equal-count"))
    return Stratum(f"{patch}/{grid}", patch, grid, weight=0.5 if uneven else 1)


STRATA: tuple[Stratum, ...] = (
    Stratum("native", "native", "native", weight=2.5),
    *(_combination(p, g) for p in _RELATIONS for g in (*_RELATIONS, "equal-count") if (p, g) != ("native", "native")),
    Stratum("large", "any", "any", "large", weight=0.5),
    Stratum("real-upward", "grow", "any", "real", weight=0.5),
    Stratum("real-downward", "shrink", "any", "real", weight=0.5),
    Stratum("real-own", "native", "native", "real", weight=0.5),
    Stratum("many-blocks", "native", "native", weight=0.25, many_blocks=True),
)


def strata_of(family: Family) -> tuple[Stratum, ...]:
    """The strata in which a family has cases. Without a patch kernel of its own, the patch cannot change."""
    return tuple(s for s in STRATA if s.patch == "native" or family.max_patch > 1)


@st.composite
def _size_pairs(draw: st.DrawFn, how: str, top: int, square_old: bool = False) -> tuple[Size, Size]:
    """An old and a new size in the relation ``how``, each axis between 1 and ``top``. ``square_old`` makes the old one square."""
    axis = st.integers(1, top)
    if how == "native":
        size = (draw(axis), draw(axis))
        size = (size[0], size[0]) if square_old else size
        return size, size
    if how == "equal-count" and square_old:
        side, factor = draw(st.sampled_from([(2, 2), (4, 2)]))
        new = (side * factor, side // factor)
        return (side, side), draw(st.sampled_from([new, new[::-1]]))
    if how == "equal-count":
        a, b, c = draw(st.sampled_from([(2, 2, 1), (1, 2, 1), (3, 2, 1), (2, 2, 2), (4, 2, 1), (2, 3, 1)]))
        sizes = ((a * b, c), (a, b * c))
        return sizes if draw(st.booleans()) else sizes[::-1]
    sides = st.integers(1 if how in ("grow", "any") else 2, top - 1)
    side = draw(sides, label="side")
    old = (side, side) if square_old or draw(st.booleans(), label="square") else (side, draw(sides))
    if how == "any":
        return old, (draw(axis), draw(axis))
    grows = {"grow": (True, True), "shrink": (False, False)}.get(how) or draw(
        st.sampled_from([(True, False), (False, True)])
    )
    sides_new = [draw(st.integers(n + 1, top) if up else st.integers(1, n - 1)) for n, up in zip(old, grows)]
    if how == "mixed":
        return old, (sides_new[0], sides_new[1])
    kind = draw(st.sampled_from(["both", "square", "rows", "columns"]), label="which axes")
    if kind == "square" and old[0] == old[1]:
        sides_new[1] = sides_new[0]
    elif kind in ("rows", "columns"):
        sides_new[kind == "rows"] = old[kind == "rows"]
    return old, (sides_new[0], sides_new[1])


@st.composite
def patch_sizes(
    draw: st.DrawFn, how: str, sizes: str = "free", square_old: bool = False, top: int = MAX_PATCH
) -> tuple[Size, Size]:
    """Source and destination patch sizes in the relation ``how``, each axis between 1 and ``top`` pixels."""
    if sizes == "large":
        return draw(_size_pairs("any", top, square_old))
    old, new = draw(_size_pairs(how, min(8, top), square_old))
    if top <= 8:
        return old, new
    # Stretch both, or one axis of both, so that patches up to 32 appear without huge matrices.
    factor = draw(st.sampled_from([1, 1, 2, 3, 4]), label="stretch")
    axes = (0, 1) if square_old else draw(st.sampled_from([(0,), (1,), (0, 1)]), label="stretched axes")
    rows, columns = (factor if axis in axes else 1 for axis in (0, 1))
    large = (old[0] * rows, old[1] * columns), (new[0] * rows, new[1] * columns)
    return large if prod(large[0]) * prod(large[1]) <= _CHEAP_MATRIX else (old, new)


def _square(family: Family, stratum: Stratum) -> st.SearchStrategy[bool]:
    """Strategy for whether both grids are square, if the stratum allows that."""
    often = family.square_grids == "often" and stratum.grid not in ("mixed", "equal-count")
    return st.booleans() if often else st.just(family.square_grids == "always")


@st.composite
def free_geometries(draw: st.DrawFn, stratum: Stratum, family: Family) -> tuple[Geometry, Geometry]:
    """Source and destination geometry in the relations of a stratum."""
    square_patch = family.square_patch == "always" or (family.square_patch == "resampled" and stratum.patch != "native")
    patches = draw(patch_sizes(stratum.patch, stratum.sizes, square_patch, family.max_patch))
    top = min(MAX_GRID if family.max_patch > 8 else 4, 2 * MAX_GRID // family.grid_multiple)
    grids = draw(_size_pairs(stratum.grid, top, family.square_source_grid))
    if draw(_square(family, stratum), label="square grids"):
        axis = int(grids[0][1] != grids[1][1])  # an axis that changes, if one does
        grids = (grids[0][axis],) * 2, (grids[1][axis],) * 2
    old, new = ((h * family.grid_multiple, w * family.grid_multiple) for h, w in grids)
    return Geometry(patches[0], old), Geometry(patches[1], new)


@st.composite
def real_geometries(draw: st.DrawFn, model: RealModel, how: str, family: Family) -> tuple[Geometry, Geometry]:
    """The geometry of a registered model's checkpoint, and one to which a user would change it.

    With ``how`` "native", both are the same: the real grid, or one of another shape with as many tokens, as a fine-tuned
    checkpoint has that is loaded into its own model again.
    """
    source, (patch, _) = model.geometry, model.patch_size
    if how == "native":
        h, w = source.grid_size
        shapes = [(h // k, w * k) for k in ((1,) if family.square_source_grid else (2, 1, 4)) if h % k == 0]
        geometry = Geometry(source.patch_size, draw(st.sampled_from(shapes)))
        return geometry, geometry
    choices = {"grow": (14, 16, 32, 2), "shrink": (8, 4)}[how]
    right_way = [p for p in choices if (p > patch) == (how == "grow") and p != patch and p <= family.max_patch] or [
        patch
    ]
    new = draw(st.sampled_from(right_way), label="new patch")
    sizes = [model.input_size, (224, 224), (112, 160)]
    h, w = draw(
        st.sampled_from([(h, h) for h, _ in sizes] if family.square_grids == "always" else sizes),
        label="new image size",
    )
    whole = family.grid_multiple
    rows, cols = (max(side // (new * model.stride * whole), 1) * whole for side in (h, w))
    return source, Geometry((new, new), (rows, cols))


# float64 in one case of nine: training in it is rare.
_DTYPES = (*("float32",) * 4, *("float16", "bfloat16") * 2, "float64")
_NPZ_DTYPES = (*("float32",) * 4, "float16", "bfloat16", "float64")  # NumPy has no bfloat16


def _channels_to_ask(own: int, case: Case) -> list[int | None]:
    """Numbers of input channels to ask for; None leaves the argument away, ``own`` is the checkpoint's number.

    They are seldom asked for with other options.
    """
    return [None] * (12 if case.asked else 2) + [other for other in (1, 3, 4, 12) if other != own]


@st.composite
def _asked(draw: st.DrawFn, asks: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """One of ``asks``, in a quarter of the draws with another that names none of its options."""
    first = draw(st.sampled_from(asks), label="asked")
    others = [ask for ask in asks if not ask.keys() & first.keys()]
    second = draw(st.sampled_from([{}] * 3 * len(others) + others), label="asked as well") if others else {}
    return {**first, **second}


def _doors(family: Family, case: Case, model: RealModel) -> list[str]:
    """The doors of timm that lead to a case's destination. A door that resizes needs a size that changes."""
    registered = (family.img_size(case.arch, case.destination), case.destination.patch_size)
    if registered == (model.input_size, model.patch_size) and "own-sizes" in family.doors:
        return ["own-sizes"]
    dynamic = case.source.grid_size != case.destination.grid_size and not family.tables(case.arch, case.source)
    closed = {
        "own-sizes": True,
        "set-input-size": case.native,
        "naflex-patches": case.native,
        "dynamic-img-size": not dynamic,
        "dynamic-img-pad": not dynamic,
    }
    found = [door for door in family.doors if not closed.get(door)]
    return found + [door for door in found if door == "naflex-patches"] * 2  # no other class has it


def _saved(case: Case) -> str:
    """How a training script saved the file of every third case. All else that was drawn decides, so that it stays as it is.

    A .pth file has an entry, a prefix or both; the names in a .safetensors file can have a prefix only. So can those of a dict
    or a folder, whose entries are drawn as wrappers.
    """
    digest = crc32(case.to_json().encode())
    if case.asked or case.container not in ("pth", "safetensors") or digest % 3:
        return ""
    entries = ("", *SAVED_ENTRIES) if case.container == "pth" and case.door not in NOT_FILES else ("",)
    forms = [f"{entry}+{prefix}".strip("+") for entry in entries for prefix in ("", *SAVED_PREFIXES)]
    return forms[1:][digest // 3 % (len(forms) - 1)]


@st.composite
def cases(draw: st.DrawFn, family: Family, stratum: Stratum) -> Case:
    """Cases of a family in a stratum. A case declares no input size only if a loader can load it without one."""
    model = draw(st.sampled_from(models_of(family)), label="registered model")
    if stratum.sizes == "real":
        source, destination = draw(real_geometries(model, stratum.patch, family))
    else:
        source, destination = draw(free_geometries(stratum, family))
    arch = draw(family.architectures, label="arch") | family.by_model(model.name)
    case = Case(
        family=family.name,
        arch=family.with_blocks(arch, _MANY_BLOCKS) if stratum.many_blocks else arch,
        source=source,
        destination=destination,
        model_name=model.name,
    )
    doors = _doors(family, case, model) if not stratum.many_blocks else []
    often = doors == ["own-sizes"]  # few cases have a registered model's own sizes
    if doors and draw(st.sampled_from([False, True] if often else [False, True, False, False]), label="by a door"):
        case = replace(case, door=draw(st.sampled_from(doors), label="door"))
    # The outputs of a model that resizes in its forward are compared, so its tensors are float32 and its tokens vary.
    compared = case.door in FORWARD_DOORS
    declared = [d for d in DECLARED if family.undecidable_grid(replace(case, declared=d), model.input_size) is None]
    files = [name for name in family.containers if name != "memory"]
    memory = [] if case.door else ["memory"] * (2 * family.containers.count("memory"))
    dtypes = ("float32",) if compared else _NPZ_DTYPES if family.in_place else _DTYPES
    kinds = ["normal", "normal", *(VARIED if case.native or compared else CONTENTS)]
    case = replace(
        case,
        dtype=draw(st.sampled_from(dtypes), label="dtype"),
        contents=Contents(draw(st.sampled_from(kinds), label="contents"), draw(st.integers(0, 999), label="seed")),
        wrapper=draw(st.sampled_from(family.wrappers), label="wrapper"),
        declared=draw(st.sampled_from(declared), label="declared"),
        container=draw(st.sampled_from(files + memory), label="container"),
    )
    channels = case.arch.get("in_chans", 3)
    # None leaves an argument away. A loader may assume three channels if the declaration does not give another number.
    known = (channels == 3 or case.declared == "true") and not compared
    if case.container == "memory":  # cases in memory are never loaded by create_model
        return case
    asks = family.asks(case.arch) if known and not (case.door or stratum.many_blocks) else ()
    by_options: bool = draw(st.booleans(), label="ask for other options") if asks else False
    if by_options:
        case = replace(case, asked=draw(_asked(asks)))
    own = case.arch["num_classes"]
    case = replace(
        case,
        in_chans=draw(st.sampled_from(_channels_to_ask(channels, case)), label="in_chans") if known else None,
        num_classes=draw(st.sampled_from([None, own] if compared else [None, None, 0, 7, own]), label="num_classes"),
    )
    return replace(case, saved=_saved(case))
