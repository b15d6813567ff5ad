"""Detects the format and the families of a checkpoint, and names the keys that show the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..drawing.catalogue import catalogue, models_of
from ..families import READ, Family
from ..reference import FORMATS, Format, LoadError, detect
from ..reference.destination import FIRST, Destination

_SHOWN = 4
_HEADS = ("head.weight", "head.fc.weight")
# The share of tensors that a model and a checkpoint must have in common to fit.
_NEARLY_ALL = 0.8


@dataclass(frozen=True)
class Recognised:
    """What a checkpoint is: its format, its families, and its numbers of classes and input channels."""

    form: Format
    families: list[Family]
    num_classes: int
    in_chans: int

    @property
    def family(self) -> Family:
        """The likeliest family, or any family of the format if none has such models."""
        return self.families[0] if self.families else next(f for f in READ.values() if f.format == self.form.name)


def families_of(form: Format, model: str, module: str) -> list[Family]:
    """The families of a format to which ``model`` belongs, the likeliest first.

    They are found by the model's name; if there is none, by its timm ``module``. A family with fewer registered models comes
    first, since it is more specific: FlexiViT before timm's own layout.
    """
    names = {model} | {n for n in catalogue() if n.partition(".")[0] == model}
    fit = [f for f in READ.values() if f.format == form.name and f.module == module]
    named = [f for f in fit if names & {m.name for m in models_of(f)}]
    return sorted(named or fit, key=lambda f: len(models_of(f)))


def recognise(state: Mapping[str, Tensor], names: Mapping[str, object], model: str, module: str) -> Format:
    """The format of an unwrapped checkpoint, for a model whose tensors have these ``names``.

    It is the format that the checkpoint's own keys show, if that format has families among the models of ``module``. Otherwise
    the model decides, since a model's own names may be those of several formats. Raises :class:`reference.LoadError`.
    """
    read_as = detect(state, names)
    try:
        by_keys = detect(state)
    except LoadError:
        return read_as
    return by_keys if families_of(by_keys, model, module) else read_as


@dataclass(frozen=True)
class Detector:
    """Detection for a model that was asked for: its name, its timm ``module``, and its shapes and sizes."""

    model: str
    module: str
    usual: Destination

    def form_of(self, state: Mapping[str, Tensor]) -> str:
        """The name of the format of a state dict. Raises :class:`reference.LoadError`."""
        return recognise(state, self.usual.shapes, self.model, self.module).name

    def fits(self, state: Mapping[str, Tensor], form: str) -> bool:
        """Whether the model has nearly all of a state dict's tensors, and their widths."""
        own = self.usual.shapes
        try:
            shapes = self.decoded(state, FORMATS[form])
        except LoadError:
            return False
        common = [k for k in shapes if k in own]
        widths = all(shapes[k].shape == own[k] for k in common if shapes[k].ndim == 1 and not k.startswith("head"))
        return widths and len(common) > _NEARLY_ALL * max(len(own), len(shapes))

    def recognised(self, state: Mapping[str, Tensor]) -> Recognised:
        """What a state dict is. Raises :class:`reference.LoadError`."""
        form = recognise(state, self.usual.shapes, self.model, self.module)
        shapes = self.decoded(state, form)
        classes = next((len(shapes[k]) for k in _HEADS if k in shapes), 0)
        first = next((shapes[k] for k in reversed(FIRST) if k in shapes), None)
        channels = self.usual.facts.in_chans if first is None else first.shape[1]
        return Recognised(form, families_of(form, self.model, self.module), classes, channels)

    def decoded(self, state: Mapping[str, Tensor], form: Format) -> dict[str, Tensor]:
        """The tensors in timm's layout, on the meta device. Raises :class:`reference.LoadError`."""
        return form.decode({k: v.to("meta") for k, v in state.items()}, self.usual.facts)


def evidence(form: Format, state: Mapping[str, Tensor]) -> list[str]:
    """At most four keys without which the checkpoint would not be of this format.

    If no single key is necessary, these are the first parts of groups of keys that are.
    """
    if not form.evidence(state):
        return ["the model's own names, all of them"]

    def needed(part: str, parts: Mapping[str, str]) -> bool:
        return not form.evidence({k: v for k, v in state.items() if parts[k] != part})

    whole, first = {k: k for k in state}, {k: k.partition(".")[0] for k in state}
    keys = [k for k in whole if needed(k, whole)]
    return keys[:_SHOWN] or [f"{part}.*" for part in dict.fromkeys(first.values()) if needed(part, first)]
