"""A case: everything that determines one check, small, frozen, JSON both ways."""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal

import msgspec

Size = tuple[int, int]
Relation = Literal["native", "grow", "shrink", "mixed"]

DTYPES = ("float32", "float16", "bfloat16")
CONTENTS = ("normal", "integers", "ramp", "one-hot", "constant")
# Those that a forward pass can be judged on: LayerNorm divides by the variance of a token.
VARIED = ("normal", "integers", "ramp")
WRAPPERS = ("bare", "model", "state_dict", "model.state_dict")
DECLARED = ("true", "absent", "default")
CONTAINERS = ("safetensors", "memory", "pth")
NPZ = ("npz",)
# What is done to a checkpoint that has to be refused then; damage.py does it.
DAMAGES = ("missing", "wider", "cut", "transposed", "deeper")


class Geometry(msgspec.Struct, frozen=True):
    """Patch size and grid of position tokens, each ``(height, width)``."""

    patch_size: Size
    grid_size: Size

    @property
    def img_size(self) -> Size:
        """Image size in pixels, ``(height, width)``."""
        return self.patch_size[0] * self.grid_size[0], self.patch_size[1] * self.grid_size[1]

    @property
    def tokens(self) -> int:
        """Number of patch tokens."""
        return self.grid_size[0] * self.grid_size[1]

    def transposed(self) -> Geometry:
        """Height and width exchanged."""
        return Geometry(self.patch_size[::-1], self.grid_size[::-1])

    def __str__(self) -> str:
        (ph, pw), (gh, gw) = self.patch_size, self.grid_size
        return f"patch {ph}x{pw}, grid {gh}x{gw}"


class Contents(msgspec.Struct, frozen=True):
    """How tensor values are made: a kind (see ``CONTENTS``) and a seed. Structure is drawn, floats never are."""

    kind: str = "normal"
    seed: int = 0


class Case(msgspec.Struct, frozen=True):
    """One check's inputs.

    ``arch`` holds the family's own architecture options. ``declared`` says what the caller tells the loader about the
    checkpoint's input size: its ``true`` value, nothing (``absent``), or the registered model's ``default``.
    ``model_name`` is a registered timm model of the family, used where the end-user path is exercised; there the caller
    may ask for other ``in_chans`` and ``num_classes`` than the checkpoint's (None: the checkpoint's).
    """

    family: str
    arch: dict[str, Any]
    source: Geometry
    destination: Geometry
    dtype: str = "float32"
    contents: Contents = Contents()
    wrapper: str = "bare"
    declared: str = "true"
    container: str = "safetensors"
    model_name: str = ""
    in_chans: int | None = None
    num_classes: int | None = None

    @property
    def native(self) -> bool:
        """Whether the model has exactly the checkpoint's geometry."""
        return self.source == self.destination

    @property
    def damage(self) -> str:
        """What kind of damage is done to its checkpoint where that is to be refused."""
        return DAMAGES[self.contents.seed % len(DAMAGES)]

    def to_json(self) -> str:
        """Canonical JSON: equal cases give equal text."""
        return msgspec.json.encode(self, order="sorted").decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Case:
        """Inverse of :meth:`to_json`. Raises ``msgspec.ValidationError`` naming the offending field."""
        return msgspec.json.decode(text, type=cls)

    def describe(self) -> str:
        """The case in words, one line."""
        words = [f"{self.source} -> {self.destination}"] if not self.native else [f"{self.source} (native)"]
        words += [self.dtype, f"{self.contents.kind} values", f"input_size {self.declared}"]
        if self.wrapper != "bare":
            words.append(f"wrapped in {self.wrapper}")
        if self.in_chans is not None:
            words.append(f"asked for {self.in_chans} channels")
        if self.num_classes is not None:
            words.append(f"asked for {self.num_classes} classes")
        arch = ", ".join(f"{k}={v}" for k, v in self.arch.items())
        return f"{self.family}: {'; '.join(words)}; {arch}"


def relation(old: Size, new: Size) -> Relation:
    """How a size changes: both axes kept, none smaller, none larger, or one of each."""
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
    """Whether a loader that takes an undeclared input size for 224x224 reads another grid out of the same tokens."""
    for geometry in (case.source, case.destination):
        claimed = (224 // geometry.patch_size[0], 224 // geometry.patch_size[1])
        if claimed[0] * claimed[1] == geometry.tokens and claimed != geometry.grid_size:
            return case.declared == "absent"
    return False


def regimes(case: Case, num_prefix_tokens: int) -> frozenset[str]:
    """The regimes a case is in, by name; ledger entries and invariants refer to these."""
    source, destination = case.source, case.destination
    patch = relation(source.patch_size, destination.patch_size)
    grid = relation(source.grid_size, destination.grid_size)
    found = {f"patch-{patch}", f"grid-{grid}", f"declared-{case.declared}", f"damage-{case.damage}"}
    found |= {case.dtype, case.container}
    found.add("prefix-1+R" if num_prefix_tokens > 1 else f"prefix-{num_prefix_tokens}")
    flags = {
        "native": case.native,
        "resampled": not case.native,
        "equal-count-other-shape": grid != "native" and source.tokens == destination.tokens,
        # Square-looking: as many tokens as a square grid has, in another shape.
        "square-count-non-square": isqrt(source.tokens) ** 2 == source.tokens and len(set(source.grid_size)) > 1,
        "source-grid-non-square": source.grid_size[0] != source.grid_size[1],
        "destination-grid-non-square": destination.grid_size[0] != destination.grid_size[1],
        "patch-non-square": len(set(source.patch_size)) > 1 or len(set(destination.patch_size)) > 1,
        "half-precision": case.dtype != "float32",
        "wrapped": case.wrapper != "bare",
        "in-chans-1": case.in_chans == 1,
        "in-chans-3": case.in_chans == 3,
        "in-chans-4": case.in_chans == 4,
        "classes-0": case.num_classes == 0,
        "classes-other": bool(case.num_classes),
        "mistaken-for-224": _mistaken_for_224(case),
        "patch-to-column": _to_line(source.patch_size, destination.patch_size, 1),
        "patch-to-row": _to_line(source.patch_size, destination.patch_size, 0),
        "grid-to-column": _to_line(source.grid_size, destination.grid_size, 1),
        "grid-to-row": _to_line(source.grid_size, destination.grid_size, 0),
    }
    return frozenset(found | {name for name, holds in flags.items() if holds})
