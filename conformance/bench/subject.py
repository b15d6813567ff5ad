"""Times single steps of a load with one loader, in a separate process, because one process can have only one timm.

The steps run on one thread without garbage collection, and processor time is measured, so that other work on the machine has
little effect. Libraries are loaded before. A *cold* call starts with empty caches of timm and the reference, and, after a garbage
collection, with cold processor caches, like the only load of a user's script. A *made* call follows it with the caches of timm
and the reference cleared again, so that it makes every matrix. A *warm* call keeps the caches.
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
from ..engine.session import judging_settings
from ..errors import one_line
from ..families import FAMILIES
from ..reference.embeddings import resample_patch_kernel, resample_position_grid
from ..targets.caches import cache_clearers
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
    """A change of a model's patch size at 224x224 pixels: the model's width, and the sides of the old and the new patch."""

    name: str
    embed_dim: int
    old: int
    new: int

    @property
    def geometries(self) -> tuple[Geometry, Geometry]:
        """The geometries of the checkpoint and of the model."""
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
    """Set the target that this process times."""
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
    remembered = cache_clearers("timm", "timm_conformance.reference")

    def forgetful() -> float:
        for forget in remembered:
            forget()
        return _seconds(work)

    gc.collect()
    return forgetful(), forgetful(), _seconds(work)


def refusal(change: Change, family: str) -> str:
    """The reason why a strict load refuses the converted checkpoint; empty if it loads."""
    _, model = _checkpoint(change, family)
    try:
        model.load_state_dict(_conversion(change, family)(), strict=True, assign=True)
    except Exception as error:
        return one_line(error)
    return ""


def _seconds(work: Callable[[], object]) -> float:
    with judging_settings():
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
    """A whole checkpoint and its model on the meta device, of which a loader reads only shapes. All blocks share tensors."""
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
