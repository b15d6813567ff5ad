"""Makes golden vectors from cases: the tensors of the safetensors files, and the JSON that describes them.

It uses neither timm nor a loader. The checkpoint is encoded from small integers. The expected tensors come from the
reference's matrices in float64 and are rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from math import ceil, floor, log10, prod
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..cases.case import Case, Contents, Geometry
from ..cases.regimes import regimes
from ..checkpoints import state_dicts, wrappers
from ..errors import UserError
from ..families import FAMILIES, Family
from ..families.base import KERNEL
from ..ledger.entries import Entry
from ..reference.relative import offsets
from ..targets.declared_size import declared_size
from ..trials.expectation import GRID, Expectation
from . import schema
from .selection import VECTORS_JSON, Choice, vector_id

# The invariants whose violation one vector can show. The others need several loads.
_SHOWN = ("strict-load", "reference-agreement")


@dataclass(frozen=True)
class FamilyVectors:
    """A family's vectors, and the tensors of each of their files."""

    vectors: schema.Vectors
    files: dict[str, dict[str, Tensor]]


def make_vectors(family: Family, cases: Mapping[Choice, Case], entries: list[Entry]) -> FamilyVectors:
    """Make the vectors of a family. ``entries`` are the ledger's.

    Raises :class:`UserError` if the cases have several architectures, or several checkpoints that share one file name.
    """
    first = Expectation(family, next(iter(cases.values())))
    arch = first.case.arch
    if any(case.arch != arch for case in cases.values()):
        raise UserError(f"the stored cases of {family.name} have several architectures; restore its {VECTORS_JSON}")
    files: dict[str, dict[str, Tensor]] = {}
    vectors = [_vector(family, choice, case, entries, files) for choice, case in cases.items()]
    how = first.resampling
    model = schema.Model(
        module=f"timm.models.{family.module}",
        class_=family.model_class,
        registered=first.case.model_name,
        names=_names(family),
        options={k: to_json(v) for k, v in sorted(family.model_kwargs(arch).items())},
    )
    made = schema.Vectors(
        schema=schema.SCHEMA,
        family=family.name,
        upstream=family.source,
        complete_since=family.first_complete,
        model=model,
        num_prefix_tokens=first.prefix_tokens,
        interpolation=schema.Interpolation(how.mode, how.antialias, how.align_corners),
        vectors=vectors,
    )
    return FamilyVectors(made, files)


def _vector(
    family: Family, choice: Choice, case: Case, entries: list[Entry], files: dict[str, dict[str, Tensor]]
) -> schema.Valid | schema.Invalid:
    expectation = Expectation(family, case)
    flags = regimes(case, expectation.prefix_tokens) | family.tags(case)
    # Left out are regimes of the suite's own tests: the container of a file, and the damage of rejection invariants.
    flags = frozenset(flag for flag in flags if flag != case.container and not flag.startswith("damage-"))
    tensors, wrapper = checkpoint(family, case, expectation.truth)
    common: dict[str, Any] = {
        "id": vector_id(family, choice),
        "comment": f"{choice.comment}: {case.source}" + ("" if case.native else f" -> {case.destination}"),
        "flags": sorted(flags),
        "source": _sizes(family, case, case.source),
        "destination": _sizes(family, case, case.destination),
        "input_size": declared_size(family, case, case.source),
        "case": case,
    }
    if choice.damage:
        damaged, _ = checkpoint(family, case, _damaged(expectation.truth, choice.damage))
        (name,) = (k for k, v in tensors.items() if k not in damaged or damaged[k].shape != v.shape)
        common["checkpoint"] = schema.Checkpoint(*_file(choice.checkpoint, damaged, files), wrapper)
        return schema.Invalid(**common, damage=choice.damage, tensor=name)
    return schema.Valid(
        **common,
        checkpoint=schema.Checkpoint(*_file(choice.checkpoint, tensors, files), wrapper),
        expected=schema.File(*_file(f"{choice.name}.expected", expectation.expected, files)),
        resampled={name: _resampled(expectation, name) for name in expectation.geometric if expectation.changed(name)},
        timm_bugs=[schema.Bug(e.id, e.releases) for e in entries if _in_reach(e, family, flags)],
    )


def _damaged(state: Mapping[str, Tensor], damage: str) -> dict[str, Tensor]:
    """A checkpoint in timm's layout in which a tensor that every family has is missing or twice as wide."""
    suffix = {"missing": "blocks.0.attn.proj.weight", "wider": "blocks.0.norm2.weight"}[damage]
    name = next(k for k in state if k.endswith(suffix))
    wider = {name: torch.cat([state[name], state[name]])} if damage == "wider" else {}
    return {k: v for k, v in state.items() if k != name} | wider


def checkpoint(family: Family, case: Case, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The upstream file of a ``state`` in timm's layout: one flat dict with foreign tensors, and the keys of its wrapper."""
    beside = Contents("integers", case.contents.seed + 1)
    tensors = state_dicts.fill(family.foreign(case.arch), beside, getattr(torch, case.dtype))
    tensors |= state_dicts.encode(family, case, state)
    if family.in_place or case.wrapper == "bare":  # a prefix is part of the names
        return wrappers.wrap(tensors, case.wrapper), []
    return tensors, case.wrapper.split(".")


def _file(stem: str, tensors: Mapping[str, Tensor], files: dict[str, dict[str, Tensor]]) -> tuple[str, str]:
    """Name and digest of a file of ``tensors``, which is added to ``files``."""
    name, owned = f"{stem}.safetensors", {k: v.contiguous() for k, v in tensors.items()}
    if name in files and save(files[name]) != save(owned):
        raise UserError(
            f"the stored cases of two vectors have one checkpoint, {name}, and differ in more than where it goes"
        )
    files[name] = owned
    return name, digest(save(owned))


def digest(data: bytes) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    return sha256(data).hexdigest()


def _sizes(family: Family, case: Case, geometry: Geometry) -> schema.Sizes:
    return schema.Sizes(geometry.patch_size, geometry.grid_size, family.img_size(case.arch, geometry))


def _resampled(expectation: Expectation, name: str) -> schema.Resampled:
    """The law by which a tensor is resampled, with its sizes and tolerance."""
    case, tolerance = expectation.case, _rounded_up(float(expectation.bound(name).max()))
    old: tuple[int, ...]
    new: tuple[int, ...]
    law: schema.Law
    if name == KERNEL:
        old, new = case.source.patch_size, case.destination.patch_size
        return schema.Resampled("pi-resize", list(old), list(new), tolerance)
    if name == GRID:
        law = "window" if expectation.format.windowed else "grid"
        old, new = case.source.grid_size, case.destination.grid_size
        return schema.Resampled(law, list(old), list(new), tolerance, expectation.prefix_rows)
    old, new = expectation.tables[name]
    law = "bias-table" if len(new) == 2 else "axis-table"
    kept = len(expectation.expected[name]) - prod(offsets(new))
    return schema.Resampled(law, list(old), list(new), tolerance, kept)


def _rounded_up(value: float) -> float:
    """``value`` rounded up to two digits, so that its last bit does not change the JSON."""
    unit = 10.0 ** (floor(log10(value)) - 1)
    return float(f"{ceil(value / unit) * unit:.1e}")


def _in_reach(entry: Entry, family: Family, flags: frozenset[str]) -> bool:
    """Whether a ledger entry covers a vector's family and regimes, so that releases with this bug may load it wrong."""
    signatures = (signature.split(":", 2) for signature in entry.shows if signature.split(":")[0] in _SHOWN)
    return any(entry.covers(family.name, name, kind, tensor, flags) for name, kind, tensor in signatures)


def _names(family: Family) -> str:
    """Name of the timm class whose tensor names and layout the expected tensors have."""
    if family.model_class != "NaFlexVit":
        return family.model_class
    return FAMILIES[family.classic].model_class if family.classic else "VisionTransformer"


def to_json(value: Any) -> Any:
    """A constructor's argument as JSON. A class or function becomes an object with its name and bound arguments."""
    if isinstance(value, partial):
        return {**to_json(value.func), **{k: to_json(v) for k, v in value.keywords.items()}}
    if isinstance(value, type):
        return {"class": f"torch.nn.{value.__name__}"}
    if isinstance(value, str) and ":" in value:
        return {"class": value.replace(":", ".")}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
        return {**to_json(value[0]), **{k: to_json(v) for k, v in value[1].items()}}
    return [to_json(v) for v in value] if isinstance(value, tuple) else value
