"""Strategies over cases. Structure is drawn, floats never are; every bound and every relation is a keyword.

Cases are drawn stratum by stratum: a stratum fixes how patch and grid change, so that even a short run meets every
regime, and the rest (sizes, architecture, dtype, wrapper, declared input size, contents) is free inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from hypothesis import strategies as st

from .cases import CONTAINERS, CONTENTS, DECLARED, DTYPES, Case, Contents, Geometry, Size
from .catalogue import RealModel, models_of
from .families import Family
from .families.base import undecidable_grid

MAX_PATCH = 32
MAX_GRID = 8
# The loaders' pseudo-inverse costs up to a second at 32x32 -> 32x32. Free draws stay below this many entries of the
# resize matrix; the "large" stratum and the real sizes do not.
_CHEAP_MATRIX = 4096


@dataclass(frozen=True)
class Stratum:
    """How patch and grid change; ``sizes`` is "free", "large" or "real" (those of a registered timm model).

    ``weight`` multiplies the number of cases a profile draws: identity and forward laws hold at native sizes only, and a
    loader may take a second for the pseudo-inverse of a large patch.
    """

    name: str
    patch: str
    grid: str
    sizes: str = "free"
    weight: float = 1


_RELATIONS = ("native", "grow", "shrink", "mixed")


def _combination(patch: str, grid: str) -> Stratum:
    """Both changing at once, one of them unevenly, is the rarest in real life: half the cases."""
    uneven = "native" not in (patch, grid) and (patch == "mixed" or grid in ("mixed", "equal-count"))
    return Stratum(f"{patch}/{grid}", patch, grid, weight=0.5 if uneven else 1)


STRATA: tuple[Stratum, ...] = (
    Stratum("native", "native", "native", weight=3),
    *(_combination(p, g) for p in _RELATIONS for g in (*_RELATIONS, "equal-count") if (p, g) != ("native", "native")),
    Stratum("large", "any", "any", "large", weight=0.5),
    Stratum("real-upward", "grow", "any", "real", weight=0.5),
    Stratum("real-downward", "shrink", "any", "real", weight=0.5),
    Stratum("real-own", "native", "native", "real", weight=0.5),
)


@st.composite
def _pairs(draw: st.DrawFn, how: str, top: int, square_old: bool = False) -> tuple[Size, Size]:
    """Two sizes, old and new, in the given relation, each axis between 1 and ``top``; optionally the old one square."""
    axis = st.integers(1, top)
    if how == "native":
        size = (draw(axis), draw(axis))
        return size, size
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
    new = [draw(st.integers(n + 1, top) if up else st.integers(1, n - 1)) for n, up in zip(old, grows)]
    if how == "mixed":
        return old, (new[0], new[1])
    kind = draw(st.sampled_from(["both", "square", "rows", "columns"]), label="which axes")
    if kind == "square" and old[0] == old[1]:
        new[1] = new[0]
    elif kind in ("rows", "columns"):
        new[kind == "rows"] = old[kind == "rows"]
    return old, (new[0], new[1])


@st.composite
def patch_sizes(draw: st.DrawFn, how: str, sizes: str = "free", square_old: bool = False) -> tuple[Size, Size]:
    """Source and destination patch sizes, 1 to 32 an axis."""
    if sizes == "large":
        return draw(_pairs("any", MAX_PATCH, square_old))
    old, new = draw(_pairs(how, 8, square_old))
    # Stretch both, or one axis of both, so that patches up to 32 appear without huge matrices.
    factor = draw(st.sampled_from([1, 1, 2, 3, 4]), label="stretch")
    axes = (0, 1) if square_old else draw(st.sampled_from([(0,), (1,), (0, 1)]), label="stretched axes")
    stretched = [tuple(n * factor if i in axes else n for i, n in enumerate(size)) for size in (old, new)]
    cost = prod(stretched[0]) * prod(stretched[1])
    return (stretched[0], stretched[1]) if cost <= _CHEAP_MATRIX else (old, new)


@st.composite
def free_geometries(draw: st.DrawFn, stratum: Stratum, square_patch: bool = False) -> tuple[Geometry, Geometry]:
    """Source and destination geometry in the relations a stratum asks for."""
    patches = draw(patch_sizes(stratum.patch, stratum.sizes, square_patch and stratum.patch != "native"))
    grids = draw(_pairs(stratum.grid, MAX_GRID))
    return Geometry(patches[0], grids[0]), Geometry(patches[1], grids[1])


@st.composite
def real_geometries(draw: st.DrawFn, model: RealModel, how: str) -> tuple[Geometry, Geometry]:
    """The geometry of a registered model's checkpoint, and one a user would change it to.

    ``native``: a fine-tuned checkpoint reloading into its own model, at the real grid or as many tokens in another shape.
    """
    source, (patch, _) = model.geometry, model.patch_size
    if how == "native":
        h, w = source.grid_size
        geometry = Geometry(
            source.patch_size, draw(st.sampled_from([(h // k, w * k) for k in (2, 1, 4) if h % k == 0]))
        )
        return geometry, geometry
    choices = {"grow": (14, 16, 32), "shrink": (8, 4)}[how]
    right_way = [p for p in choices if (p > patch) == (how == "grow") and p != patch] or [patch]
    new = draw(st.sampled_from(right_way), label="new patch")
    h, w = draw(st.sampled_from([model.input_size, (224, 224), (112, 160)]), label="new image size")
    return source, Geometry((new, new), (h // new, w // new))


@st.composite
def cases(draw: st.DrawFn, family: Family, stratum: Stratum) -> Case:
    """Cases of a family within a stratum, declaring no input size only where a loader can do without."""
    model = draw(st.sampled_from(models_of(family)), label="registered model")
    if stratum.sizes == "real":
        source, destination = draw(real_geometries(model, stratum.patch))
    else:
        source, destination = draw(free_geometries(stratum, family.square_source_patch))
    declared = [d for d in DECLARED if undecidable_grid(source, destination, d, model.input_size) is None]
    return Case(
        family=family.name,
        arch=draw(family.architectures, label="arch"),
        source=source,
        destination=destination,
        dtype=draw(st.sampled_from(["float32", *DTYPES]), label="dtype"),
        contents=Contents(
            draw(st.sampled_from(["normal", "normal", *CONTENTS]), label="contents"),
            draw(st.integers(0, 999), label="seed"),
        ),
        wrapper=draw(st.sampled_from(family.wrappers), label="wrapper"),
        declared=draw(st.sampled_from(declared), label="declared"),
        container=draw(st.sampled_from([*CONTAINERS, "memory"]), label="container"),
        model_name=model.name,
    )
