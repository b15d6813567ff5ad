"""One loader in a process of its own, timed at single steps of a load: one process can have one timm only.

One thread that waits for nothing, and no garbage collection meanwhile: what counts is processor time, so that whatever else
the machine does takes nothing from it but its caches. Libraries are loaded already. A *cold* call finds empty what timm and the
reference remember, and after a garbage collection the processor's caches too, as the one load of a user's script does. A *made*
call comes after it and makes every matrix anew: what they remembered is forgotten again. A *warm* call forgets nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ..cases.case import Case, Geometry
from ..checkpoints import state_dicts
from ..engine.session import undisturbed
from ..errors import one_line
from ..families import FAMILIES
from ..reference.embeddings import resample_patch_kernel, resample_position_grid
from ..targets.caches import caches
from ..targets.loader import Loader
from ..targets.skip_init import SkipInit
from ..targets.target import parse_target

STATES = ("cold", "made", "warm")

_IMAGE = 224
_DEPTHS = {768: 12, 1024: 24, 1280: 32}
_COMMON = {"mlp_ratio": 4, "class_token": True, "reg_tokens": 0, "num_classes": 512, "pre_norm": True}
_loader: Loader


@dataclass(frozen=True)
class Change:
    """A model's patch size changed at 224x224 pixels: its width, and the sides of the old and the new patch."""

    name: str
    embed_dim: int
    old: int
    new: int

    @property
    def geometries(self) -> tuple[Geometry, Geometry]:
        """Of the checkpoint and of the model."""
        old, new = (Geometry((side, side), (_IMAGE // side, _IMAGE // side)) for side in (self.old, self.new))
        return old, new


CHANGES = tuple(
    Change(f"{model}/{old} → {new}", width, old, new)
    for model, width, old, new in (
        ("B", 768, 16, 8),
        ("B", 768, 16, 14),
        ("B", 768, 16, 32),
        ("L", 1024, 14, 28),
        ("H", 1280, 14, 16),
        ("B", 768, 32, 64),
    )
)


def start(spec: str) -> None:
    """Make a target the one this process times."""
    global _loader
    torch.set_num_threads(1)
    gc.disable()
    _loader = Loader(parse_target(spec))
    for step in ("kernel", "positions"):
        timed(step, Change("a small one, so that the libraries are loaded", 64, 16, 8))


def timed(step: str, change: Change, family: str = "") -> tuple[float, ...]:
    """Processor seconds of a step, in each of :data:`STATES`.

    Steps are ``kernel``, ``positions``, and ``convert``, a whole checkpoint of a family.
    """
    work = {"kernel": _kernel, "positions": _positions, "convert": lambda c: _conversion(c, family)}[step](change)
    remembered = caches("timm", "timm_conformance.reference")

    def forgetful() -> float:
        for forget in remembered:
            forget()
        return _seconds(work)

    gc.collect()
    return forgetful(), forgetful(), _seconds(work)


def refusal(change: Change, family: str) -> str:
    """Why a strict load refuses what the loader makes of a checkpoint; empty where it does not."""
    _, model = _checkpoint(change, family)
    try:
        model.load_state_dict(_conversion(change, family)(), strict=True, assign=True)
    except Exception as error:
        return one_line(error)
    return ""


def _seconds(work: Callable[[], object]) -> float:
    with undisturbed():
        started = time.process_time()
        work()
        return time.process_time() - started


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.02


def _kernel(change: Change) -> Callable[[], Tensor]:
    weight, side = _random(change.embed_dim, 3, change.old, change.old), change.new
    if _loader.target.kind == "reference":
        return lambda: resample_patch_kernel(weight, (side, side))
    from timm.layers import resample_patch_embed

    return lambda: resample_patch_embed(weight, [side, side])


def _positions(change: Change) -> Callable[[], Tensor]:
    old, new = (geometry.grid_size for geometry in change.geometries)
    position = _random(1, 1 + old[0] * old[1], change.embed_dim)
    if _loader.target.kind == "reference":
        return lambda: resample_position_grid(position, old, new, 1)
    from timm.layers import resample_abs_pos_embed

    return lambda: resample_abs_pos_embed(position, new_size=list(new), num_prefix_tokens=1)


def _arch(change: Change, depth: int) -> dict:
    return {"embed_dim": change.embed_dim, "num_heads": change.embed_dim // 64, "depth": depth, **_COMMON}


@cache
def _checkpoint(change: Change, family: str) -> tuple[dict[str, Tensor], nn.Module]:
    """A whole checkpoint, its blocks sharing one's tensors, and its model on the meta device: a loader reads shapes alone."""
    source, destination = change.geometries
    depth = _DEPTHS[change.embed_dim]
    case = Case(family, _arch(change, 1), source, destination)
    known = FAMILIES[family]
    first = state_dicts.encode(known, case, state_dicts.truth(known, case))
    state = {k.replace(".0.", f".{i}.", 1): v for k, v in first.items() for i in range(depth if ".0." in k else 1)}
    with SkipInit():
        whole = Case(family, _arch(change, depth), source, destination)
        return state, _loader.model(known, whole, destination, source.img_size, "meta")


def _conversion(change: Change, family: str) -> Callable[[], dict[str, Tensor]]:
    state, model = _checkpoint(change, family)
    known, arch = FAMILIES[family], _arch(change, _DEPTHS[change.embed_dim])
    return lambda: _loader.converted(known, arch, dict(state), model)
