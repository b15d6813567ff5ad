"""The loader under test, inside a worker process: timm's own, the reference, or a user's function."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import os
import sys
import typing
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from packaging.version import Version
from torch import Tensor, nn

from .. import reference
from ..cases.case import Case, Geometry, Size
from ..checkpoints import files
from ..errors import UserError
from ..families import FAMILIES, Family
from .declared_size import declare
from .scratch import scratch_folder
from .skip_init import SkipInit
from .target import Target, activate

Convert = Callable[[Mapping[str, Any], nn.Module], dict[str, Tensor]]


class Unsupported(Exception):
    """The release cannot build the destination model of a case: not applicable there, which is no failure."""


def _resolve(value: Any) -> Any:
    """``"package.module:name"`` strings name objects of the target's timm, pairs with a dict call them; all else is itself."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
        return partial(_resolve(value[0]), **value[1])
    if isinstance(value, str) and ":" in value:
        module, name = value.split(":")
        try:
            return getattr(importlib.import_module(module), name)
        except AttributeError:
            raise Unsupported(f"the release has no {name}") from None
    return value


@cache
def _parameters(cls: type) -> frozenset[str]:
    """Constructor arguments of a model class: where it passes any on, those of its base or the fields of its ``cfg``."""
    own = inspect.signature(cls).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
        return frozenset(own)
    if "cfg" in own:
        hint = typing.get_type_hints(cls.__init__)["cfg"]
        (config,) = (c for c in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(c))
        return frozenset(own) | {f.name for f in dataclasses.fields(config)}
    return frozenset(own) | _parameters(cls.__base__)


class Loader:
    """A target made ready in this process: converts checkpoints, builds models, walks the end-user path.

    ``function`` is what a ``loader:`` target names, where the caller has it at hand; otherwise it is imported.
    """

    def __init__(self, target: Target, device: str = "cpu", function: Convert | None = None) -> None:
        self.target = target
        self.device = device
        logging.getLogger("timm").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore")
        self.timm_version = activate(target)
        self.release = Version(self.timm_version) if target.is_timm else None
        self._build = lru_cache(maxsize=256)(self._build_uncached)
        self.function = function or (self._user_function() if target.kind == "loader" else None)
        self._options = frozenset(inspect.signature(self.function).parameters) if self.function else frozenset()

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

    def lacking(self, family: Family, case: Case) -> str | None:
        """What the target's release does not know yet about a case of a family it knows, or None."""
        return None if self.release is None else family.lacking(case, self.release)

    def fills_models(self, family: Family) -> bool:
        """Whether the target writes such checkpoints straight into a model, which no strict load follows."""
        return family.in_place and self.target.is_timm

    def convert(
        self, family: Family, arch: Mapping[str, Any], checkpoint: Mapping[str, Any], model: nn.Module
    ) -> dict[str, Tensor]:
        """The state dict the loader makes of a checkpoint for ``model``; whatever it raises passes through."""
        if family.in_place:
            with scratch_folder() as folder:
                path = files.write(dict(checkpoint), "bare", "npz", Path(folder))
                if self.fills_models(family):
                    return _load_in_place(model, path, checkpoint)
                return self.converted(family, arch, files.read(path), model)
        return self.converted(family, arch, checkpoint, model)

    def converted(self, family: Family, arch: Mapping[str, Any], checkpoint: Any, model: nn.Module, **more: Any):
        """What a function on a dict makes of a checkpoint; the reference is given ``more``."""
        if self.target.kind == "reference":
            resampling = family.resampling(arch)
            return reference.load_state_dict(checkpoint, model, resampling=resampling, **more)
        convert = self.function or self.filter_function(family)
        return dict(checkpoint) if convert is None else convert(checkpoint, model, **self.filter_options(family, arch))

    def filter_options(self, family: Family, arch: Mapping[str, Any]) -> dict[str, Any]:
        """What timm's model function passes to the loader for ``arch``; a user's function is given what it takes of it."""
        options = family.filter_kwargs(arch)
        return {k: v for k, v in options.items() if self.function is None or k in self._options}

    def filter_function(self, family: Family) -> Convert | None:
        """The release's function for a family, or None where it loads such checkpoints as they are."""
        for name in family.filters:
            module, _, function = name.rpartition(":")
            found = getattr(importlib.import_module(f"timm.models.{module or family.module}"), function, None)
            if found is not None:
                return found
        return None

    # -- destination models ------------------------------------------------------------------------------------------

    def model(
        self, family: Family, case: Case, geometry: Geometry, input_size: Size | None, device: str | None = None
    ) -> nn.Module:
        """The destination model of ``case`` at ``geometry``, declaring ``input_size`` of the checkpoint (None: nothing).

        Models are shared between cases: only shapes and the declaration matter to a loader.
        """
        model = self._build(family.name, _frozen(case.arch), geometry, device or self.device)
        declare(model, case, input_size, self.release)
        return model

    def _build_uncached(self, family_name: str, arch: tuple, geometry: Geometry, device: str) -> nn.Module:
        family, options = FAMILIES[family_name], dict(arch)
        kwargs = self.model_kwargs(family, options)
        model_class = self.model_class(family)
        if "weight_init" in inspect.signature(model_class).parameters:
            kwargs["weight_init"] = "skip"  # every weight is about to be loaded
        try:
            model = model_class(**family.sizes(options, geometry), **kwargs)
        except (TypeError, ImportError, ValueError) as error:
            if error.__traceback__.tb_next is None:  # the call itself: our arguments
                raise
            raise Unsupported(f"the release cannot build the model: {error}") from None
        return model.eval() if device == "cpu" else model.eval().to(device)

    def model_kwargs(self, family: Family, arch: Mapping[str, Any], created: bool = False) -> dict[str, Any]:
        """Constructor arguments of the destination model, or of its registered function, with the target's own classes.

        Arguments a release does not have yet are left out where they ask for nothing, else :class:`Unsupported`.
        """
        given = ((created and family.created_kwargs) or family.model_kwargs)(arch)
        known = _parameters(self.model_class(family))
        if created and family.models_module:
            known |= {"use_naflex"}
        if created and family.classic:  # their functions take the classic model's arguments
            known |= _parameters(self.model_class(FAMILIES[family.classic]))
        kwargs = {k: _resolve(v) for k, v in given.items()}
        missing = [k for k, v in kwargs.items() if k not in known and v]
        if missing:
            raise Unsupported(f"the release's {family.model_class} has no {', '.join(missing)}")
        return {k: v for k, v in kwargs.items() if k in known}

    def model_class(self, family: Family) -> type[nn.Module]:
        """The release's class of the family's destination models."""
        try:
            module = importlib.import_module(f"timm.models.{family.module}")
        except ModuleNotFoundError:
            raise Unsupported(f"the release has no timm.models.{family.module}") from None
        return getattr(module, family.model_class)

    # -- the end-user path -------------------------------------------------------------------------------------------

    def knows_model(self, name: str) -> bool:
        """Whether the imported timm has a registered model and tag of this name."""
        from timm.models import get_pretrained_cfg

        try:
            return get_pretrained_cfg(name, allow_unregistered=False) is not None
        except Exception:
            return False

    @property
    def reads_npz_files(self) -> bool:
        """Whether ``create_model`` takes a ``.npz`` from a file (``timm/models/_builder.py``: since 0.9.8)."""
        return self.release is None or self.release >= Version("0.9.8")

    def create_model(self, family: Family, case: Case, path: Path) -> nn.Module:
        """``timm.create_model`` on a checkpoint file, as a user calls it, and then moved to the device.

        For the reference and user loaders: create the model without weights, move it, read the file, convert, load strictly.
        """
        import timm

        arch = case.arch
        kwargs = self.model_kwargs(family, arch, created=True)
        for name, (h, w) in family.sizes(arch, case.destination).items():
            # A user says 224 as often as (224, 224); which it is here must be the same every time.
            kwargs[name] = h if h == w and case.contents.seed % 2 else (h, w)
        if case.in_chans is not None or "in_chans" in arch:
            kwargs["in_chans"] = case.in_chans or arch["in_chans"]
        if case.num_classes is not None:
            kwargs["num_classes"] = case.num_classes
        overlay: dict[str, Any] = {
            "file": str(path),
            "custom_load": family.in_place,
            "num_classes": arch["num_classes"],
        }
        if case.declared == "true":
            overlay["input_size"] = (arch.get("in_chans", 3), *family.img_size(arch, case.source))
        create = partial(timm.create_model, case.model_name, pretrained_cfg_overlay=overlay, **kwargs)
        if self.target.is_timm:
            return _supported(create, pretrained=True).to(self.device)
        model = _supported(create, pretrained=False).to(self.device)
        own = case.num_classes is not None
        more = {"keep_classifier": own} if self.target.kind == "reference" else {}
        state = self.converted(family, arch, files.read(path), model, **more)
        model.load_state_dict(state, strict=True)
        return model


def blank(model: nn.Module) -> None:
    """Fill every parameter with NaN."""
    for parameter in model.parameters():
        parameter.detach().fill_(float("nan"))


def _load_in_place(model: nn.Module, path: Path, checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``model.load_pretrained`` writes into a model's parameters, in the checkpoint's dtype."""
    dtype = next(t.dtype for t in checkpoint.values() if t.is_floating_point())
    return {k: v.detach().clone().to(dtype) for k, v in write_in_place(model, path, checkpoint).items()}


def write_in_place(model: nn.Module, path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Let ``model.load_pretrained`` read a ``.npz`` file with arrays of these names; the model's tensors that it wrote.

    Every parameter holds NaN before, so that one the loader never touched is missing afterwards, not left as it was.
    """
    blank(model)
    # Only a prefix the loader looks for by itself may be left to it; PaliGemma's has to be named.
    prefix = {"prefix": "img/"} if "img/embedding/kernel" in names else {}
    model.load_pretrained(str(path), **prefix)
    return {k: v for k, v in model.state_dict().items() if not bool(v.isnan().all())}


def _supported(create: Callable[..., nn.Module], pretrained: bool) -> nn.Module:
    """Call a model function; one that fixes the argument we vary cannot build the case's model."""
    try:
        with SkipInit():
            return create(pretrained=pretrained)
    except TypeError as error:
        if "multiple values for keyword argument" in str(error):
            raise Unsupported(f"the release's model function fixes its options: {error}") from None
        raise


def _frozen(arch: Mapping[str, Any]) -> tuple:
    return tuple(sorted(arch.items()))
