"""How the target loads a checkpoint file: by ``timm.create_model``, as a user calls it, with next to no memory of its own.

A model made here has parameters without memory (the meta device), since all of them are about to be replaced; buffers, of
which rotary embeddings and relative positions make their own, are real. The few models that cannot be built so are built as
always. ``load_state_dict`` hands the converted tensors to
the model instead of copying them, so tensors of a mapped file stay in the file. What it was given is kept: it can be compared
even where the load is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor, nn

from ..cases.case import Size
from ..drawing.catalogue import catalogue
from ..errors import UserError, one_line, unknown
from ..families import Family
from ..targets.loader import Loader, write_in_place
from ..targets.target import MODEL_RELEASE
from ..trials.problems import Problem, raised


@dataclass(frozen=True)
class Wanted:
    """The model a user asks for by name; None leaves a size to the model."""

    model: str
    patch_size: Size | None = None
    img_size: Size | None = None
    num_classes: int | None = None
    in_chans: int | None = None

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``create_model``; a square size is one number, as everybody writes it."""
        sizes = {"patch_size": self.patch_size, "img_size": self.img_size}
        given = {k: v[0] if v[0] == v[1] else v for k, v in sizes.items() if v is not None}
        counts = {"num_classes": self.num_classes, "in_chans": self.in_chans}
        return given | {k: v for k, v in counts.items() if v is not None}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file and what its user says of it: classes, channels, and the image size it was trained at.

    ``names`` are the outermost keys of what the file holds.
    """

    path: Path
    container: str
    names: frozenset[str]
    family: Family
    arch: Mapping[str, Any]
    num_classes: int
    in_chans: int
    input_size: Size | None


@dataclass
class Loaded:
    """What came of a load: the model, the state dict that it was given, and what was raised if anything was.

    Of an exception only what it says is kept: its frames would hold the checkpoint in memory.
    """

    model: nn.Module | None = None
    given: dict[str, Tensor] = field(default_factory=dict)
    failure: Problem | None = None


_register, _load = nn.Module.register_parameter, nn.Module.load_state_dict


def hollow() -> AbstractContextManager:
    """Models made meanwhile have parameters on the meta device."""

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        _register(module, name, param)
        if param is not None:
            module._parameters[name] = nn.Parameter(param.to("meta"), requires_grad=False)

    return mock.patch.object(nn.Module, "register_parameter", register)


def handed_over(into: Loaded) -> AbstractContextManager:
    """State dicts loaded meanwhile are noted, and their tensors become the model's without a copy."""

    def load(module: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        into.model, into.given = module, dict(state_dict)
        with mock.patch.object(nn.Module, "register_parameter", _register):
            return _load(module, state_dict, strict=strict, assign=True)

    return mock.patch.object(nn.Module, "load_state_dict", load)


def known_model(loader: Loader, name: str) -> str:
    """The timm module of a registered model. Raises :class:`UserError` with the nearest name where there is none."""
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch) or (tag and not loader.knows_model(name)):
        if name in catalogue():
            raise UserError(f"timm {loader.timm_version} has no model {name!r} yet; timm {MODEL_RELEASE} has")
        raise unknown(
            f"model of timm {loader.timm_version}", name, [*timm.list_models(pretrained=True), *timm.list_models()]
        )
    return timm.models.model_entrypoint(arch).__module__.rpartition(".")[2]


def create(wanted: Wanted) -> nn.Module:
    """A model, without memory where it can be built so. Raises :class:`UserError` where timm cannot build it at all."""
    import timm

    make = partial(timm.create_model, wanted.model, **wanted.arguments())
    try:
        with _room(wanted.model):
            return make().eval()
    except Exception:  # it looks into its own parameters
        _SOLID.add(wanted.model)
    try:
        return make().eval()
    except Exception as error:
        said = ", ".join(f"{k}={v}" for k, v in wanted.arguments().items())
        raise UserError(
            f"timm {timm.__version__} cannot build {wanted.model} with {said or 'its defaults'}: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from None


# Models that compute with their parameters while they are built, as behind a ResNet or with learnt rotary frequencies.
_SOLID: set[str] = set()


def _room(model: str) -> AbstractContextManager:
    return nullcontext() if model in _SOLID else hollow()


def load(loader: Loader, wanted: Wanted, checkpoint: Checkpoint, read: Callable[[], Mapping[str, Any]]) -> Loaded:
    """Load a checkpoint into the model ``wanted`` by the target; ``read`` reads the file for a loader that takes a dict."""
    if not loader.target.is_timm:
        way = partial(_by_function, loader, wanted, checkpoint, read)
    elif checkpoint.container == "npz":
        way = partial(_in_place, wanted, checkpoint)
    else:
        way = partial(_by_create_model, wanted, checkpoint)
    loaded = Loaded()
    try:
        way(loaded)
    except Exception as error:
        loaded.failure = raised(error, "loading")
    return loaded


def _by_create_model(wanted: Wanted, checkpoint: Checkpoint, into: Loaded) -> None:
    import timm

    declared = create(Wanted(wanted.model)).pretrained_cfg["input_size"]
    overlay = {
        "file": str(checkpoint.path),
        "custom_load": False,
        "num_classes": checkpoint.num_classes,
        "input_size": (checkpoint.in_chans, *(checkpoint.input_size or declared[-2:])),
    }
    with _room(wanted.model), handed_over(into):
        into.model = timm.create_model(
            wanted.model, pretrained=True, pretrained_cfg_overlay=overlay, **wanted.arguments()
        ).eval()


def _in_place(wanted: Wanted, checkpoint: Checkpoint, into: Loaded) -> None:
    """``model.load_pretrained``, which is all that ``create_model`` does with a ``.npz`` file, where it takes one."""
    model = create(wanted)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.new_empty(parameter.shape, device="cpu"), False)
    into.given = write_in_place(model, checkpoint.path, checkpoint.names)
    into.model = model


def _by_function(
    loader: Loader, wanted: Wanted, checkpoint: Checkpoint, read: Callable[[], Mapping[str, Any]], into: Loaded
) -> None:
    model = create(wanted)
    own = wanted.num_classes not in (None, checkpoint.num_classes)
    more = {"input_size": checkpoint.input_size, "keep_classifier": own} if loader.target.kind == "reference" else {}
    state = loader.converted(checkpoint.family, checkpoint.arch, read(), model, **more)
    with handed_over(into):
        model.load_state_dict(state, strict=not own)
