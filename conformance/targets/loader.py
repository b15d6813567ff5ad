"""The loader under test, inside a worker process: timm's own, the reference, or a user's function."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from packaging.version import Version
from torch import Tensor, nn

from .. import reference
from ..cases.case import Case, Geometry, Size
from ..checkpoints import files
from ..errors import UserError
from ..families import Family
from ..probes.registry import ProbeAnswer, ask, faults
from .declared_size import declare
from .factory import factory_call
from .file_reader import reads_saved
from .models import build, fill_with_nan
from .scratch import scratch_folder
from .target import Target, activate

# Takes a checkpoint and a model, and options of the family by name.
Convert = Callable[..., dict[str, Tensor]]


class Loader:
    """A target made ready in this process: it converts checkpoints, builds models, and calls ``create_model``.

    ``function`` is the function of a ``loader:`` target if the caller has it already; otherwise it is imported.
    """

    def __init__(self, target: Target, device: str = "cpu", function: Convert | None = None) -> None:
        self.target = target
        self.device = device
        logging.getLogger("timm").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore")
        self.timm_version = activate(target)
        self.release = Version(self.timm_version) if target.is_timm else None
        self._build = lru_cache(maxsize=256)(build)
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

    @property
    def library_faults(self) -> dict[str, ProbeAnswer]:
        """The faults of libraries, by probe, that excuse failures here. The reference has none: it uses no such function."""
        return {} if self.target.kind == "reference" else faults(ask(self.device))

    def supports(self, family: Family) -> bool:
        """Whether the target's release knows the family. The reference and users' loaders are judged on all families."""
        return self.release is None or family.supported_by(self.release)

    def unsupported(self, family: Family, case: Case) -> str | None:
        """Why the target's release does not support a case of a family that it knows, or None."""
        return None if self.release is None else family.unsupported(case, self.release)

    def reads_saved(self, family: Family, case: Case) -> bool:
        """Whether the target reads the file of a case as a training script saved it. The reference reads all of them."""
        return self.release is None or reads_saved(family, case, self.release)

    def writes_into_model(self, family: Family) -> bool:
        """Whether the target writes the family's checkpoints straight into a model. No strict load follows then."""
        return family.in_place and self.target.is_timm

    def convert(
        self, family: Family, arch: Mapping[str, Any], checkpoint: Mapping[str, Any], model: nn.Module
    ) -> dict[str, Tensor]:
        """The state dict that the loader makes from a checkpoint for ``model``. Its exceptions pass through."""
        if family.in_place:
            with scratch_folder() as folder:
                path = files.write(dict(checkpoint), "bare", "npz", Path(folder))
                if self.writes_into_model(family):
                    return _load_in_place(model, path, checkpoint)
                return self.converted(family, arch, files.read(path), model)
        return self.converted(family, arch, checkpoint, model)

    def converted(
        self, family: Family, arch: Mapping[str, Any], checkpoint: Any, model: nn.Module, **more: Any
    ) -> dict[str, Tensor]:
        """The state dict that the target's function makes from a checkpoint in memory. ``more`` goes to the reference only.

        A problem names the function that raised, so the names of this function and of those below are part of fingerprints.
        """
        if self.target.kind == "reference":
            resampling = family.resampling(arch)
            return reference.load_state_dict(checkpoint, model, resampling=resampling, **more)
        convert = self.function or self.filter_function(family)
        return dict(checkpoint) if convert is None else convert(checkpoint, model, **self.filter_options(family, arch))

    def filter_options(self, family: Family, arch: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that timm's model function passes to the loader for ``arch``. A user's function gets those it accepts."""
        options = family.filter_kwargs(arch)
        return {k: v for k, v in options.items() if self.function is None or k in self._options}

    def told_resampling(self, family: Family, arch: Mapping[str, Any]) -> bool:
        """Whether the target learns how a tensor in timm's layout is resampled, where the family has a way of its own."""
        own = family.resampling(arch) is not None
        return not own or self.target.kind == "reference" or "interpolation" in self.filter_options(family, arch)

    def filter_function(self, family: Family) -> Convert | None:
        """The release's conversion function for a family, or None if it loads such checkpoints without conversion."""
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
        """The destination model of ``case`` at ``geometry``. It declares ``input_size`` for the checkpoint (None: nothing).

        Models are shared between cases, since a loader reads only their shapes and the declaration.
        """
        model = self._build(family.name, _hashable(case.arch), geometry, device or self.device)
        declare(model, case, input_size, self.release)
        return model

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

    def create_model(self, family: Family, case: Case, checkpoint: Path | dict[str, Tensor]) -> nn.Module:
        """Call ``timm.create_model`` on a checkpoint file or a state dict as a user does, and move the model to the device.

        For the reference and users' loaders: create the model without weights, move it, read the file, convert, load strictly.
        """
        call = factory_call(family, case, checkpoint)
        if self.target.is_timm:
            return call.loaded(bool(case.asked)).to(self.device)
        model = (call.empty() if case.asked else call(pretrained=False)).to(self.device)
        more = {"keep_classifier": case.other_classes} if self.target.kind == "reference" else {}
        given = files.read(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        state = self.converted(family, case.arch, given, model, **more)
        model.load_state_dict(state, strict=True)
        return model


def _load_in_place(model: nn.Module, path: Path, checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that ``model.load_pretrained`` writes into a model, in the checkpoint's dtype."""
    dtype = next(t.dtype for t in checkpoint.values() if t.is_floating_point())
    return {k: v.detach().clone().to(dtype) for k, v in write_in_place(model, path, checkpoint).items()}


def write_in_place(model: nn.Module, path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Let ``model.load_pretrained`` read a ``.npz`` file with arrays of these ``names``; return the tensors that it wrote.

    Every parameter holds NaN before. So a parameter that the loader never touched is missing from the result.
    """
    fill_with_nan(model)
    # The loader looks for most prefixes by itself. PaliGemma's has to be named.
    prefix = {"prefix": "img/"} if "img/embedding/kernel" in names else {}
    reader: Any = model
    reader.load_pretrained(str(path), **prefix)
    return {k: v for k, v in model.state_dict().items() if not bool(v.isnan().all())}


def _hashable(arch: Mapping[str, Any]) -> tuple:
    return tuple(sorted(arch.items()))
