"""A case: all inputs of one check, as a small frozen value that converts to JSON and back."""

from __future__ import annotations

from typing import Any

import msgspec

Size = tuple[int, int]
DTYPES = ("float32", "float16", "bfloat16", "float64")
CONTENTS = ("normal", "integers", "ramp", "one-hot", "constant")
# Contents for which outputs can be compared. LayerNorm divides by the variance of a token, so tokens must vary.
VARIED = ("normal", "integers", "ramp")
WRAPPERS = ("bare", "model", "state_dict", "model.state_dict")
DECLARED = ("true", "absent", "default")
CONTAINERS = ("safetensors", "memory", "pth")
NPZ = ("npz",)
# How training scripts save a state dict (``Case.saved``): in which entry, and with what before each name. An entry of a moving
# average (EMA) lies beside that of the trained weights.
SAVED_ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "state_dict.model", "model_ema.module")
SAVED_PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")
# Ways to damage a checkpoint, done by trials/damage.py. A correct loader refuses the result.
DAMAGES = ("missing", "wider", "cut", "transposed", "deeper")
# Settings of torch around a load, made by trials/ambient.py. A load is the same in all of them.
AMBIENT = (
    "default-float64",
    "default-bfloat16",
    "default-device",
    "autocast",
    "inference-mode",
    "no-grad",
    "deterministic",
)

# Ways to load a checkpoint file beside create_model's ``file``, done by targets/doors.py.
DOORS = (
    "state-dict",
    "load-checkpoint",
    "checkpoint-path",
    "local-dir",
    "set-input-size",
    "own-sizes",
    "custom-load-unsaid",
    "dynamic-img-size",
    "dynamic-img-pad",
    "naflex-patches",
)
# Those among them that take no single file: a dict, or a folder.
NOT_FILES = ("state-dict", "local-dir")
# Those among them where a model of the checkpoint's own grid resizes in its forward.
FORWARD_DOORS = DOORS[-3:]


class Geometry(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """Patch size in pixels and grid of patch tokens, each ``(height, width)``."""

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
        """The geometry with height and width exchanged."""
        return Geometry(self.patch_size[::-1], self.grid_size[::-1])

    def __str__(self) -> str:
        (ph, pw), (gh, gw) = self.patch_size, self.grid_size
        return f"patch {ph}x{pw}, grid {gh}x{gw}"


class Contents(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """How tensor values are made: a kind (see ``CONTENTS``) and a seed. Hypothesis draws the structure, never the floats."""

    kind: str = "normal"
    seed: int = 0


class Case(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """The inputs of one check.

    ``arch`` holds the family's own architecture options. ``declared`` says which input size the caller declares for the
    checkpoint: its ``true`` value, none (``absent``), or the registered model's ``default``. ``model_name`` is a registered
    timm model of the family, for loads by ``create_model``. Such a load may ask for other ``in_chans`` and ``num_classes``
    than the checkpoint's (None: the checkpoint's), and for a model with other options than ``arch`` has (``asked``). ``door``
    is another of timm's ways to load the same file (``targets/doors.py``), or empty.

    ``saved`` says how a training script saved the file that ``create_model`` reads, in place of ``wrapper``: the entry
    (``state_dict_ema``; ``state_dict.model`` nests), what stands before each name, which ends with a dot (``module.``), or both
    (``model+module._orig_mod.``). A ``.safetensors`` file has no entry.
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
    asked: dict[str, Any] = {}
    door: str = ""
    saved: str = ""

    @property
    def saved_entry(self) -> tuple[str, ...]:
        """The keys under which the state dict lies in the file, outermost first; those of ``saved``."""
        entry = self.saved.rpartition("+")[0] if self.saved.endswith(".") else self.saved
        return tuple(entry.split(".")) if entry else ()

    @property
    def saved_prefix(self) -> str:
        """What stands before each name in the file, in ``saved``."""
        return self.saved.rpartition("+")[2] if self.saved.endswith(".") else ""

    @property
    def model_arch(self) -> dict[str, Any]:
        """The options of the model that ``create_model`` is asked for, its number of classes aside."""
        return {**self.arch, **self.asked}

    @property
    def asks_for_naflex(self) -> bool:
        """Whether a NaFlexViT is asked for in place of the checkpoint's own class."""
        return bool(self.asked.get("use_naflex"))

    @property
    def other_classes(self) -> bool:
        """Whether ``create_model`` is asked for another number of classes than the checkpoint's."""
        return self.num_classes is not None and self.num_classes != self.arch["num_classes"]

    @property
    def native(self) -> bool:
        """Whether the model has the checkpoint's geometry."""
        return self.source == self.destination

    @property
    def damage(self) -> str:
        """The kind of damage that the rejection invariants do to the case's checkpoint."""
        return DAMAGES[self.contents.seed % len(DAMAGES)]

    @property
    def ambient(self) -> str:
        """The ambient state in which the invariants of ambient states load the case's checkpoint."""
        return AMBIENT[self.turn % len(AMBIENT)]

    @property
    def turn(self) -> int:
        """A number by which cases take turns in being judged. It depends on the sizes too, since many cases have the seed 0."""
        sizes = self.source.tokens + 2 * self.destination.tokens + sum(self.destination.patch_size)
        return self.contents.seed + sizes

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
        if self.asked:
            words.append("asked for " + ", ".join(f"{k}={v}" for k, v in self.asked.items()))
        if self.door:
            words.append(f"by the door {self.door}")
        if self.saved_entry:
            words.append(f"saved in {'.'.join(self.saved_entry)}")
        if self.saved_prefix:
            words.append(f"names behind {self.saved_prefix}")
        arch = ", ".join(f"{k}={v}" for k, v in self.arch.items())
        return f"{self.family}: {'; '.join(words)}; {arch}"
