"""The loader under test, inside a worker process: timm's own, the reference, or a user's function."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from packaging.version import Version
from torch import Tensor, nn

import reference

from . import checkpoints
from .cases import Case, Geometry, Size
from .catalogue import catalogue
from .errors import UserError
from .families import FAMILIES, Family
from .targets import Target, activate

Convert = Callable[[Mapping[str, Any], nn.Module], dict[str, Tensor]]


class Unsupported(Exception):
    """The release cannot build the destination model of a case: not applicable there, which is no failure."""


def _resolve(value: Any) -> Any:
    """``"package.module:name"`` strings name objects of the target's timm; everything else is itself."""
    if isinstance(value, str) and ":" in value:
        module, name = value.split(":")
        try:
            return getattr(importlib.import_module(module), name)
        except AttributeError:
            raise Unsupported(f"the release has no {name}") from None
    return value


@cache
def _parameters(cls: type) -> frozenset[str]:
    return frozenset(inspect.signature(cls).parameters)


class Loader:
    """A target made ready in this process: converts checkpoints, builds models, walks the end-user path."""

    def __init__(self, target: Target, device: str = "cpu") -> None:
        self.target = target
        self.device = device
        logging.getLogger("timm").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore")
        self.timm_version = activate(target)
        self.release = Version(self.timm_version) if target.is_timm else None
        self._build = lru_cache(maxsize=256)(self._build_uncached)
        self._function = self._user_function() if target.kind == "loader" else None

    def _user_function(self) -> Convert:
        module, name = self.target.value.split(":")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"target {self.target.spec!r}: {error}") from error

    def supports(self, family: Family) -> bool:
        """Whether the target's release knows the family; the reference and user loaders are judged on all."""
        return self.release is None or family.supported_by(self.release)

    def convert(self, family: Family, checkpoint: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
        """The state dict the loader makes of a checkpoint for ``model``; whatever it raises passes through."""
        if self._function is not None:
            return self._function(checkpoint, model)
        if self.target.kind == "reference":
            return reference.load_state_dict(checkpoint, model)
        return importlib.import_module(f"timm.models.{family.module}").checkpoint_filter_fn(checkpoint, model)

    # -- destination models ------------------------------------------------------------------------------------------

    def model(
        self, family: Family, case: Case, geometry: Geometry, input_size: Size | None, device: str | None = None
    ) -> nn.Module:
        """The destination model of ``case`` at ``geometry``, declaring ``input_size`` of the checkpoint (None: nothing).

        Models are shared between cases: only shapes and the declaration matter to a loader.
        """
        model = self._build(family.name, _frozen(case.arch), geometry, device or self.device)
        if input_size is None:
            model.__dict__.pop("pretrained_cfg", None)
        else:
            model.pretrained_cfg = {"input_size": (3, *input_size)}
        return model

    def _build_uncached(self, family_name: str, arch: tuple, geometry: Geometry, device: str) -> nn.Module:
        family = FAMILIES[family_name]
        kwargs = self.model_kwargs(family, dict(arch))
        if "weight_init" in _parameters(self._model_class(family)):
            kwargs["weight_init"] = "skip"  # every weight is about to be loaded
        model = self._model_class(family)(img_size=geometry.img_size, patch_size=geometry.patch_size, **kwargs)
        return model.eval() if device == "cpu" else model.eval().to(device)

    def model_kwargs(self, family: Family, arch: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments of the destination model, with the target's own classes.

        Arguments a release does not have yet are left out where they ask for nothing, else :class:`Unsupported`.
        """
        known = _parameters(self._model_class(family))
        kwargs = {k: _resolve(v) for k, v in family.model_kwargs(arch).items()}
        missing = [k for k, v in kwargs.items() if k not in known and v]
        if missing:
            raise Unsupported(f"the release's {family.model_class} has no {', '.join(missing)}")
        return {k: v for k, v in kwargs.items() if k in known}

    def _model_class(self, family: Family) -> type[nn.Module]:
        return getattr(importlib.import_module(f"timm.models.{family.module}"), family.model_class)

    # -- the end-user path -------------------------------------------------------------------------------------------

    def knows_model(self, name: str) -> bool:
        """Whether the imported timm has a registered model and tag of this name."""
        from timm.models import get_pretrained_cfg

        try:
            return get_pretrained_cfg(name, allow_unregistered=False) is not None
        except Exception:
            return False

    def create_model(self, family: Family, case: Case, path: Path) -> nn.Module:
        """``timm.create_model`` on a checkpoint file, as a user calls it.

        For the reference and user loaders: create the model without weights, read the file, convert, load strictly.
        """
        import timm

        kwargs = self.model_kwargs(family, case.arch)
        kwargs |= {"img_size": case.destination.img_size, "patch_size": case.destination.patch_size}
        overlay: dict[str, Any] = {"file": str(path), "custom_load": False, "num_classes": case.arch["num_classes"]}
        if case.declared == "true":
            overlay["input_size"] = (3, *case.source.img_size)
        if self.target.is_timm:
            return timm.create_model(case.model_name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
        model = timm.create_model(case.model_name, pretrained=False, pretrained_cfg_overlay=overlay, **kwargs)
        model.load_state_dict(self.convert(family, checkpoints.read(path), model), strict=True)
        return model


def _frozen(arch: Mapping[str, Any]) -> tuple:
    return tuple(sorted(arch.items()))


def declared_size(case: Case, geometry: Geometry) -> Size | None:
    """The input size a caller declares for a checkpoint of ``geometry``: true, none, or the registered model's."""
    if case.declared == "true":
        return geometry.img_size
    if case.declared == "absent":
        return None
    return default_size(case)


def default_size(case: Case) -> Size:
    """Input size in the registered model's own configuration."""
    model = catalogue().get(case.model_name)
    return model.input_size if model else (224, 224)
