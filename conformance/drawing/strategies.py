"""Strategies over cases. Structure is drawn, floats never are; every bound and every relation is a keyword.

Cases are drawn stratum by stratum: a stratum fixes how patch and grid change, so that even a short run meets every
regime, and the rest (sizes, architecture, dtype, wrapper, declared input size, contents) is free inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from hypothesis import strategies as st
from msgspec.structs import replace

from ..cases.case import CONTENTS, DECLARED, DTYPES, VARIED, Case, Contents, Geometry, Size
from ..families import Family
from .catalogue import RealModel, models_of

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

    @property
    def native(self) -> bool:
        """Whether nothing changes: the strata in which a loaded model is run, and so hold no tokens that are all alike."""
        return self.patch == self.grid == "native"


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


def strata_of(family: Family) -> tuple[Stratum, ...]:
    """The strata a family has cases in: without a patch kernel of its own, only those that leave the patch alone."""
    return tuple(s for s in STRATA if s.patch == "native" or family.max_patch > 1)


@st.composite
def _pairs(draw: st.DrawFn, how: str, top: int, square_old: bool = False) -> tuple[Size, Size]:
    """Two sizes, old and new, in the given relation, each axis between 1 and ``top``; optionally the old one square."""
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
def patch_sizes(
    draw: st.DrawFn, how: str, sizes: str = "free", square_old: bool = False, top: int = MAX_PATCH
) -> tuple[Size, Size]:
    """Source and destination patch sizes, 1 to ``top`` an axis."""
    if sizes == "large":
        return draw(_pairs("any", top, square_old))
    old, new = draw(_pairs(how, min(8, top), square_old))
    if top <= 8:
        return old, new
    # Stretch both, or one axis of both, so that patches up to 32 appear without huge matrices.
    factor = draw(st.sampled_from([1, 1, 2, 3, 4]), label="stretch")
    axes = (0, 1) if square_old else draw(st.sampled_from([(0,), (1,), (0, 1)]), label="stretched axes")
    stretched = [tuple(n * factor if i in axes else n for i, n in enumerate(size)) for size in (old, new)]
    cost = prod(stretched[0]) * prod(stretched[1])
    return (stretched[0], stretched[1]) if cost <= _CHEAP_MATRIX else (old, new)


def _square(family: Family, stratum: Stratum) -> st.SearchStrategy[bool]:
    """Whether both grids are square, where they can be in the stratum."""
    often = family.square_grids == "often" and stratum.grid not in ("mixed", "equal-count")
    return st.booleans() if often else st.just(family.square_grids == "always")


@st.composite
def free_geometries(draw: st.DrawFn, stratum: Stratum, family: Family) -> tuple[Geometry, Geometry]:
    """Source and destination geometry in the relations a stratum asks for."""
    square_patch = family.square_patch == "always" or (family.square_patch == "resampled" and stratum.patch != "native")
    patches = draw(patch_sizes(stratum.patch, stratum.sizes, square_patch, family.max_patch))
    top = min(MAX_GRID if family.max_patch > 8 else 4, 2 * MAX_GRID // family.grid_multiple)
    grids = draw(_pairs(stratum.grid, top, family.square_source_grid))
    if draw(_square(family, stratum), label="square grids"):
        axis = int(grids[0][1] != grids[1][1])  # one that changes, where any does
        grids = (grids[0][axis],) * 2, (grids[1][axis],) * 2
    grids = [(h * family.grid_multiple, w * family.grid_multiple) for h, w in grids]
    return Geometry(patches[0], grids[0]), Geometry(patches[1], grids[1])


@st.composite
def real_geometries(draw: st.DrawFn, model: RealModel, how: str, family: Family) -> tuple[Geometry, Geometry]:
    """The geometry of a registered model's checkpoint, and one a user would change it to.

    ``native``: a fine-tuned checkpoint reloading into its own model, at the real grid or as many tokens in another shape.
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


_DTYPES = ("float32", *DTYPES)
_NPZ_DTYPES = ("float32", "float32", *_DTYPES)  # NumPy has no bfloat16
# Cases in memory are never given to create_model, and so ask nothing of it.
_ASKED_CLASSES = (None, None, 0, 7)


def _other_channels(channels: int) -> list[int | None]:
    """What is asked of a checkpoint of so many channels."""
    return [None, None, *(other for other in (1, 3, 4) if other != channels)]


@st.composite
def cases(draw: st.DrawFn, family: Family, stratum: Stratum) -> Case:
    """Cases of a family within a stratum, declaring no input size only where a loader can do without."""
    model = draw(st.sampled_from(models_of(family)), label="registered model")
    if stratum.sizes == "real":
        source, destination = draw(real_geometries(model, stratum.patch, family))
    else:
        source, destination = draw(free_geometries(stratum, family))
    case = Case(
        family=family.name,
        arch=draw(family.architectures, label="arch") | family.by_model(model.name),
        source=source,
        destination=destination,
        model_name=model.name,
    )
    declared = [d for d in DECLARED if family.undecidable_grid(replace(case, declared=d), model.input_size) is None]
    container = draw(
        st.sampled_from([*family.containers, "memory"] if "memory" in family.containers else family.containers),
        label="container",
    )
    case = replace(
        case,
        dtype=draw(st.sampled_from(_NPZ_DTYPES if family.in_place else _DTYPES), label="dtype"),
        contents=Contents(
            draw(st.sampled_from(["normal", "normal", *(VARIED if stratum.native else CONTENTS)]), label="contents"),
            draw(st.integers(0, 999), label="seed"),
        ),
        wrapper=draw(st.sampled_from(family.wrappers), label="wrapper"),
        declared=draw(st.sampled_from(declared), label="declared"),
        container=container,
    )
    written, channels = container != "memory", case.arch.get("in_chans", 3)
    # A loader may take a checkpoint for one of three channels until it is told.
    told = channels == 3 or case.declared == "true"
    return replace(
        case,
        in_chans=draw(st.sampled_from(_other_channels(channels)), label="in_chans") if written and told else None,
        num_classes=draw(st.sampled_from(_ASKED_CLASSES), label="num_classes") if written else None,
    )
