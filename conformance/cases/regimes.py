"""Regimes: named classes of cases. Invariants list those they must meet, ledger entries those they apply to."""

from __future__ import annotations

from math import isqrt
from typing import Literal

from .case import Case, Size

Relation = Literal["native", "grow", "shrink", "mixed"]


def relation(old: Size, new: Size) -> Relation:
    """How a size changes: ``native`` (equal), ``grow`` (no axis shrinks), ``shrink`` (no axis grows), or ``mixed``."""
    if old == new:
        return "native"
    if new[0] >= old[0] and new[1] >= old[1]:
        return "grow"
    if new[0] <= old[0] and new[1] <= old[1]:
        return "shrink"
    return "mixed"


def _to_line(old: Size, new: Size, axis: int) -> bool:
    """Whether ``new`` has length 1 along ``axis`` while the other axis is resized between lengths above 1."""
    other = 1 - axis
    return new[axis] == 1 and old[other] != new[other] and min(old[other], new[other]) > 1


def _mistaken_for_224(case: Case) -> bool:
    """Whether a loader that assumes 224x224 for an undeclared input size would read another grid from the same tokens."""
    for geometry in (case.source, case.destination):
        claimed = (224 // geometry.patch_size[0], 224 // geometry.patch_size[1])
        if claimed[0] * claimed[1] == geometry.tokens and claimed != geometry.grid_size:
            return case.declared == "absent"
    return False


def regimes(case: Case, num_prefix_tokens: int) -> frozenset[str]:
    """Names of the regimes that a case is in."""
    source, destination = case.source, case.destination
    patch = relation(source.patch_size, destination.patch_size)
    grid = relation(source.grid_size, destination.grid_size)
    found = {f"patch-{patch}", f"grid-{grid}", f"declared-{case.declared}", f"damage-{case.damage}"}
    found |= {case.dtype, case.container, f"ambient-{case.ambient}"}
    found.add("prefix-1+R" if num_prefix_tokens > 1 else f"prefix-{num_prefix_tokens}")
    flags = {
        "native": case.native,
        "resampled": not case.native,
        "equal-count-other-shape": grid != "native" and source.tokens == destination.tokens,
        # The grid has as many tokens as a square grid, and is not square.
        "square-count-non-square": isqrt(source.tokens) ** 2 == source.tokens and len(set(source.grid_size)) > 1,
        "source-grid-non-square": source.grid_size[0] != source.grid_size[1],
        "destination-grid-non-square": destination.grid_size[0] != destination.grid_size[1],
        "patch-non-square": len(set(source.patch_size)) > 1 or len(set(destination.patch_size)) > 1,
        "half-precision": case.dtype in ("float16", "bfloat16"),
        "wrapped": case.wrapper != "bare",
        "classes-0": case.num_classes == 0,
        "classes-other": bool(case.num_classes),
        "other-classes": case.other_classes,
        "many-blocks": max(case.arch.get(name, 0) for name in ("depth", "last_depth")) > 10,
        "asked": bool(case.asked),
        "saved-ema": any(name.endswith("_ema") for name in case.saved_entry),
        "saved-module": "module" in case.saved_entry,
        "saved-nested": len(case.saved_entry) > 1,
        "saved-prefixed": bool(case.saved_prefix),
        "saved-compiled": "_orig_mod." in case.saved_prefix,
        "saved-compiled-outside": case.saved_prefix.startswith("_orig_mod.module."),
        "siglip-model": "siglip" in case.model_name,
        "mistaken-for-224": _mistaken_for_224(case),
        "patch-to-column": _to_line(source.patch_size, destination.patch_size, 1),
        "patch-to-row": _to_line(source.patch_size, destination.patch_size, 0),
        "grid-to-column": _to_line(source.grid_size, destination.grid_size, 1),
        "grid-to-row": _to_line(source.grid_size, destination.grid_size, 0),
    }
    found |= {f"in-chans-{case.in_chans}"} if case.in_chans else set()
    found |= {f"door-{case.door}"} if case.door else set()
    found |= {f"asked-{option.replace('_', '-')}" for option in case.asked}
    return frozenset(found | {name for name, holds in flags.items() if holds})
