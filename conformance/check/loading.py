"""Loads a checkpoint file with the target, by ``timm.create_model`` as a user calls it, and with little memory.

- The parameters of a new model are on the meta device and take no memory, since the load replaces all of them. Buffers are
  real: rotary embeddings and relative positions compute their own. A few models cannot be built this way and are built as usual.
- ``load_state_dict`` assigns the converted tensors to the model and copies none. So tensors of a memory-mapped file stay in
  the file.
- The state dict that ``load_state_dict`` receives is kept. So it can be compared even if the load is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from torch import Tensor, nn

from ..cases.case import Size
from ..drawing.catalogue import catalogue
from ..errors import UserError, one_line, unknown
from ..families import Family
from ..targets.loader import Loader, write_in_place
from ..targets.target import MODEL_RELEASE
from ..trials.problems import Problem, raised
from .handing import not_as_folder, one_file, said_of_file
from .reading import Located


@dataclass(frozen=True)
class RequestedModel:
    """A model that the user asks for by name. A field that is None has the model's own value.

    ``options`` are further arguments of ``create_model``.
    """

    model: str
    patch_size: Size | None = None
    img_size: Size | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``create_model``. A square size is one number, as users write it."""
        sizes = {"patch_size": self.patch_size, "img_size": self.img_size}
        given = {k: v[0] if v[0] == v[1] else v for k, v in sizes.items() if v is not None}
        counts = {"num_classes": self.num_classes, "in_chans": self.in_chans}
        return given | {k: v for k, v in counts.items() if v is not None} | dict(self.options)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with its numbers of classes and channels and the image size that it was trained at.

    ``config`` is the config.json beside it, empty if there is none. ``state`` are the tensors that a user takes out of it, where
    the file as it stands is not to be loaded. ``declared`` is the size that the model declares, ``(height, width)``.
    """

    located: Located
    config: Mapping[str, Any]
    family: Family
    arch: Mapping[str, Any]
    num_classes: int
    in_chans: int
    input_size: Size | None
    declared: Size
    state: Mapping[str, Tensor] | None = None

    @property
    def overlay(self) -> dict[str, Any]:
        """What ``pretrained_cfg_overlay`` says of a checkpoint beside its place."""
        size = (self.in_chans, *(self.input_size or self.declared))
        return {"custom_load": False, "num_classes": self.num_classes, "input_size": size}


@dataclass
class Loaded:
    """The result of a load: the model, the state dict that it received, and the exception as a problem.

    ``given`` is what the target was given, if not the file that the user named; ``by_folder`` says that it was the folder. The
    exception itself is not kept, since its frames would hold the checkpoint in memory.
    """

    model: nn.Module | None = None
    state_dict: dict[str, Tensor] = field(default_factory=dict)
    failure: Problem | None = None
    given: str = ""
    by_folder: bool = False


_register, _load = nn.Module.register_parameter, nn.Module.load_state_dict


def parameters_on_meta() -> AbstractContextManager:
    """A context in which new models have their parameters on the meta device."""

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        _register(module, name, param)
        if param is not None:
            _register(module, name, nn.Parameter(param.to("meta"), requires_grad=False))

    return mock.patch.object(nn.Module, "register_parameter", register)


def captured_load(into: Loaded) -> AbstractContextManager:
    """A context in which ``load_state_dict`` stores model and state dict in ``into``, and assigns tensors without a copy."""

    def load(module: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        into.model, into.state_dict = module, dict(state_dict)
        with mock.patch.object(nn.Module, "register_parameter", _register):
            return _load(module, state_dict, strict=strict, assign=True)

    return mock.patch.object(nn.Module, "load_state_dict", load)


def known_model(loader: Loader, name: str) -> str:
    """The timm module of a registered model. Raises :class:`UserError` for an unknown name, with the nearest known one."""
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch) or (tag and not loader.knows_model(name)):
        if name in catalogue():
            raise UserError(f"timm {loader.timm_version} has no model {name!r} yet; timm {MODEL_RELEASE} has")
        raise unknown(
            f"model of timm {loader.timm_version}", name, [*timm.list_models(pretrained=True), *timm.list_models()]
        )
    return timm.models.model_entrypoint(arch).__module__.rpartition(".")[2]


def create(wanted: RequestedModel) -> nn.Module:
    """Build a model, if possible with its parameters on the meta device. Raises :class:`UserError` if timm cannot build it."""
    import timm

    make = partial(timm.create_model, wanted.model, **wanted.arguments())
    try:
        with memory_saving(wanted.model):
            model = make().eval()
        if not any(buffer.is_meta for buffer in model.buffers()):
            return model
    except Exception:  # the constructor reads its own parameters
        pass
    _NEED_REAL_PARAMETERS.add(wanted.model)
    try:
        return make().eval()
    except Exception as error:
        said = ", ".join(f"{k}={v}" for k, v in wanted.arguments().items())
        raise UserError(
            f"timm {timm.__version__} cannot build {wanted.model} with {said or 'its defaults'}: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from None


# Models whose constructor reads their parameters, for example those with a ResNet stem or learnt rotary frequencies, or makes
# buffers on their device, as Swin does its masks.
_NEED_REAL_PARAMETERS: set[str] = set()


def memory_saving(model: str) -> AbstractContextManager:
    """A context in which a new model takes no memory for its parameters, if it can be built so."""
    return nullcontext() if model in _NEED_REAL_PARAMETERS else parameters_on_meta()


def load(
    loader: Loader, wanted: RequestedModel, checkpoint: Checkpoint, read: Callable[[], Mapping[str, Any]]
) -> Loaded:
    """Load a checkpoint into the model ``wanted`` with the target. ``read`` reads it for a loader that takes a dict.

    timm is given the file, or the folder where the release takes it; see :mod:`.handing`.
    """
    loaded = Loaded()
    try:
        if loader.target.is_timm:
            _by_timm(loader, wanted, checkpoint, read, loaded)
        else:
            _by_function(loader, wanted, checkpoint, read, loaded)
    except Exception as error:
        loaded.failure = raised(error, "loading")
    return loaded


def _by_timm(
    loader: Loader, wanted: RequestedModel, checkpoint: Checkpoint, read: Callable[[], Mapping[str, Any]], into: Loaded
) -> None:
    if checkpoint.state is not None:
        return _by_create_model(wanted, checkpoint, Path(), into)
    located, reason = checkpoint.located, "timm reads arrays of Flax from a file"
    if located.in_folder and located.is_file and located.file_kind != "npz":
        usual, counts = create(RequestedModel(wanted.model)), (checkpoint.num_classes, checkpoint.in_chans)
        reason = not_as_folder(
            located, checkpoint.config, loader.release, usual, wanted.model, wanted.arguments(), counts
        )
        if not reason:
            return _as_folder(wanted, checkpoint, into)
    into.given = said_of_file(located, reason)
    with one_file(located, read) as path:
        if located.file_kind == "npz":
            _in_place(wanted, path, into)
        else:
            _by_create_model(wanted, checkpoint, path, into)


def _as_folder(wanted: RequestedModel, checkpoint: Checkpoint, into: Loaded) -> None:
    """Load by ``create_model("local-dir:FOLDER", pretrained=True)``, which takes all but the sizes from config.json."""
    import timm

    name = f"local-dir:{checkpoint.located.named}"
    into.given, into.by_folder = f'the folder, as create_model("{name}", pretrained=True)', True
    size = checkpoint.input_size
    overlay = {"input_size": (checkpoint.in_chans, *size)} if size else None
    with memory_saving(wanted.model), captured_load(into):
        into.model = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **wanted.arguments()
        ).eval()


def _by_create_model(wanted: RequestedModel, checkpoint: Checkpoint, path: Path, into: Loaded) -> None:
    import timm

    if checkpoint.state is None:
        source: dict[str, Any] = {"file": str(path)}
    else:
        source = {"state_dict": dict(checkpoint.state)}
    overlay = source | checkpoint.overlay
    with memory_saving(wanted.model), captured_load(into):
        into.model = timm.create_model(
            wanted.model, pretrained=True, pretrained_cfg_overlay=overlay, **wanted.arguments()
        ).eval()


def _in_place(wanted: RequestedModel, path: Path, into: Loaded) -> None:
    """Load by ``model.load_pretrained``, the only thing that ``create_model`` does with a ``.npz`` file."""
    model = create(wanted)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            empty = parameter.new_empty(parameter.shape, device="cpu")
            module.register_parameter(name, nn.Parameter(empty, requires_grad=False))
    with np.load(path) as tree:
        names = tree.files
    into.state_dict = write_in_place(model, path, names)
    into.model = model


def _by_function(
    loader: Loader, wanted: RequestedModel, checkpoint: Checkpoint, read: Callable[[], Mapping[str, Any]], into: Loaded
) -> None:
    model = create(wanted)
    own = wanted.num_classes not in (None, checkpoint.num_classes)
    more = {"input_size": checkpoint.input_size, "keep_classifier": own} if loader.target.kind == "reference" else {}
    given = read() if checkpoint.state is None else checkpoint.state
    state = loader.converted(checkpoint.family, checkpoint.arch, given, model, **more)
    with captured_load(into):
        model.load_state_dict(state, strict=not own)
