"""The call of ``timm.create_model`` that a case asks for, as a value: every door opens the same file with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..cases.case import Case, Geometry
from ..errors import one_line
from ..families import Family
from ..families.asks import NAFLEX
from ..families.base import PIXELS
from .models import Unsupported, model_kwargs
from .skip_init import SkipInit


@dataclass(frozen=True)
class FactoryCall:
    """``timm.create_model(model_name, pretrained_cfg_overlay=overlay, **kwargs)``."""

    model_name: str
    overlay: Mapping[str, Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, pretrained: bool) -> nn.Module:
        """Create the model. Raises :class:`Unsupported` if its function fixes an argument that the case sets."""
        import timm

        overlay = dict(self.overlay)
        try:
            with SkipInit():
                return timm.create_model(
                    self.model_name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **self.kwargs
                )
        except TypeError as error:
            if "multiple values for keyword argument" in str(error):
                raise Unsupported(f"the release's model function fixes its options: {error}") from None
            raise

    def empty(self) -> nn.Module:
        """The model without weights. Raises :class:`Unsupported` if the release cannot build it."""
        try:
            return self(pretrained=False)
        except Exception as error:
            raise Unsupported(f"the release cannot build the model asked for: {one_line(error)}") from None

    def loaded(self, asked: bool = False) -> nn.Module:
        """The model with its weights. If it was ``asked`` for and cannot be built without any, raises :class:`Unsupported`."""
        try:
            return self(pretrained=True)
        except Exception:
            if asked:
                self.empty()
            raise

    def with_overlay(self, **entries: Any) -> FactoryCall:
        """The call with other entries of its overlay; None takes an entry away."""
        overlay = {k: v for k, v in {**self.overlay, **entries}.items() if v is not None}
        return replace(self, overlay=overlay)

    def with_kwargs(self, **kwargs: Any) -> FactoryCall:
        """The call with other keyword arguments; None takes an argument away."""
        return replace(self, kwargs={k: v for k, v in {**self.kwargs, **kwargs}.items() if v is not None})


def factory_call(family: Family, case: Case, checkpoint: Path | dict[str, Any]) -> FactoryCall:
    """The call by which a user loads a file, or a state dict, into the model that a case asks for.

    Raises :class:`Unsupported` where the release has no such model.
    """
    arch = case.model_arch
    kwargs = model_kwargs(family, arch, created=True)
    kwargs |= NAFLEX if case.asks_for_naflex else {}
    kwargs |= sizes(family, case, case.destination)
    if case.in_chans is not None or "in_chans" in arch:
        kwargs["in_chans"] = case.in_chans or arch["in_chans"]
    if case.num_classes is not None:
        kwargs["num_classes"] = case.num_classes
    overlay: dict[str, Any] = {
        **({"file": str(checkpoint)} if isinstance(checkpoint, Path) else {"state_dict": checkpoint}),
        "custom_load": family.in_place,
        "num_classes": case.arch["num_classes"],
    }
    if case.declared == "true":
        overlay["input_size"] = (case.arch.get("in_chans", 3), *family.img_size(case.arch, case.source))
    return FactoryCall(case.model_name, overlay, kwargs)


def sizes(family: Family, case: Case, geometry: Geometry) -> dict[str, Any]:
    """The sizes at a geometry as users write them: 224 or (224, 224). The case's seed decides, so that the choice repeats."""
    found: dict[str, Any] = {}
    for name, (h, w) in family.created_sizes(case.model_arch, geometry).items():
        found[name] = h if name in PIXELS and h == w and case.contents.seed % 2 else (h, w)
    return found
