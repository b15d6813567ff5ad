"""timm's doors: the ways in which it takes a checkpoint file, or gives a loaded model another size.

``create_model`` with ``pretrained_cfg_overlay=dict(file=...)`` is the door that every case in a file goes through. Each door here
is another way to the same model. Sources: ``timm/models/_builder.py``, ``_factory.py``, ``_helpers.py``, ``_hub.py``, and the
methods ``set_input_size`` of the model classes.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from packaging.version import Version
from torch import Tensor, nn

from ..cases.case import Case, Geometry
from ..checkpoints import files
from ..drawing.catalogue import catalogue
from ..errors import one_line
from ..families import Family
from ..families.base import PIXELS
from .factory import FactoryCall, factory_call, sizes
from .models import Unsupported, model_class, parameters
from .skip_init import SkipInit

if TYPE_CHECKING:
    from .loader import Loader


@dataclass(frozen=True)
class Visit:
    """A case whose file lies at ``path``, and the call of ``create_model`` for it."""

    loader: Loader
    family: Family
    case: Case
    path: Path = Path()

    @property
    def call(self) -> FactoryCall:
        """The call by which a user loads the file into the model that the case asks for."""
        return factory_call(self.family, self.case, self.path)


@dataclass(frozen=True)
class Door:
    """``load`` gives the model by the door. ``closed`` gives the reason why a case cannot go through it, or None.

    ``may_refuse`` says whether timm promises less of the door than of ``create_model`` with a file, so that it may raise.
    A door with ``fed`` gives a model of the checkpoint's own size, which resizes in its forward: it takes ``fed(visit, image)``
    in place of an image ``(batch, in_chans, height, width)`` of the case's destination, whose last row and column are 0.
    """

    name: str
    statement: str
    load: Callable[[Visit], nn.Module]
    closed: Callable[[Visit], str | None]
    may_refuse: Callable[[Visit], bool]
    fed: Callable[[Visit, Tensor], Any] | None


DOORS: dict[str, Door] = {}


def _door(
    statement: str,
    closed: Callable[[Visit], str | None] = lambda visit: None,
    may_refuse: Callable[[Visit], bool] = lambda visit: False,
    fed: Callable[[Visit, Tensor], Any] | None = None,
) -> Callable:
    """Register a door under the name of the function that goes through it, hyphenated."""

    def register(load: Callable[[Visit], nn.Module]) -> Callable[[Visit], nn.Module]:
        name = load.__name__.strip("_").replace("_", "-")
        DOORS[name] = Door(name, statement, load, closed, may_refuse, fed)
        return load

    return register


def open_door(visit: Visit) -> nn.Module:
    """The model that the door of the case gives, on the loader's device. Exceptions of timm pass through.

    Raises :class:`Unsupported` if the release lacks the door, or if the case cannot go through it.
    """
    door = DOORS[visit.case.door]
    reason = door.closed(visit)
    if reason:
        raise Unsupported(f"{door.name}: {reason}")
    with SkipInit():
        return door.load(visit).to(visit.loader.device)


def _wrapped(visit: Visit) -> bool:
    """Whether what is passed as a state dict is one in a wrapper, which only some models' filter functions open."""
    return visit.case.wrapper != "bare"


@_door("`create_model(name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=...))`", may_refuse=_wrapped)
def _state_dict(visit: Visit) -> nn.Module:
    return visit.call.with_overlay(file=None, state_dict=files.read(visit.path)).loaded()


def _adapted(visit: Visit) -> bool:
    """Whether other channels or classes are asked for, to which only ``create_model`` adapts a checkpoint."""
    return visit.case.in_chans is not None or visit.case.other_classes


@_door("`timm.models.load_checkpoint(model, path, filter_fn=checkpoint_filter_fn)`", may_refuse=_adapted)
def _load_checkpoint(visit: Visit) -> nn.Module:
    model = visit.call.empty()
    convert = visit.loader.filter_function(visit.family)
    if convert is not None:
        convert = partial(convert, **visit.loader.filter_options(visit.family, visit.case.arch))
    importlib.import_module("timm.models").load_checkpoint(model, str(visit.path), filter_fn=convert)
    return model


def _converted(visit: Visit) -> bool:
    """Whether the file would have to be converted or resampled, which ``checkpoint_path=`` does with ``.npz`` files only."""
    own = visit.family.format == "timm_native" and visit.case.native
    return _adapted(visit) or not (own or visit.family.in_place)


@_door("`create_model(name, checkpoint_path=path)`", may_refuse=_converted)
def _checkpoint_path(visit: Visit) -> nn.Module:
    call = visit.call.with_overlay(file=None).with_kwargs(checkpoint_path=str(visit.path))
    return call(pretrained=False)


def _no_local_folders(visit: Visit) -> str | None:
    release = visit.loader.release
    return "the release has no local-dir: models" if release and release < Version("1.0.16") else None


@_door(
    "`create_model('local-dir:FOLDER', pretrained=True)`, with the config that `save_for_hf` writes, and its `model_args`",
    _no_local_folders,
)
def _local_dir(visit: Visit) -> nn.Module:
    folder = visit.path.parent / "model"
    folder.mkdir()
    shutil.copy(visit.path, folder / {".safetensors": "model.safetensors"}.get(visit.path.suffix, "pytorch_model.bin"))
    call = visit.call
    saved = call.with_overlay(file=None).with_kwargs(**sizes(visit.family, visit.case, visit.case.source))
    saved = saved.with_kwargs(num_classes=visit.case.arch["num_classes"], in_chans=visit.case.arch.get("in_chans"))
    saved = saved.with_kwargs(**{k: None for k, v in saved.kwargs.items() if callable(v)})  # JSON holds no classes
    # As the case's seed decides, the call repeats the saved model's options, or leaves them to the folder.
    args = dict(saved.kwargs) if visit.case.contents.seed // 2 % 2 else {}
    hub: Any = importlib.import_module("timm.models._hub")
    try:
        hub.save_config_for_hf(saved.empty(), str(folder / "config.json"), model_args=args)
    except Exception as error:  # of saving, which is not the load
        raise Unsupported(f"the release cannot save the model's configuration: {one_line(error)}") from None
    kwargs = {k: v for k, v in call.kwargs.items() if k not in args or v != args[k]}
    return FactoryCall(f"local-dir:{folder}", {}, kwargs).loaded()


def _native(visit: Visit) -> str | None:
    return "the model has the checkpoint's geometry already" if visit.case.native else None


@_door(
    "`model.set_input_size(img_size=..., patch_size=...)` of a model loaded at the checkpoint's own geometry", _native
)
def _set_input_size(visit: Visit) -> nn.Module:
    model = visit.call.with_kwargs(**sizes(visit.family, visit.case, visit.case.source)).loaded()
    resize(model, visit, visit.case.source, visit.case.destination)
    return model


def resize(model: Any, visit: Visit, old: Geometry, new: Geometry) -> None:
    """Resize a model in place by its ``set_input_size``. Raises :class:`Unsupported` if its class has none.

    A patch size that stays the same is said or not, as the case's seed decides.
    """
    if not hasattr(model, "set_input_size"):
        raise Unsupported(f"the release's {type(model).__name__} has no set_input_size")
    said = {k: v for k, v in sizes(visit.family, visit.case, new).items() if k in PIXELS}
    if old.patch_size == new.patch_size and visit.case.contents.seed % 2:
        del said["patch_size"]
    if "window_size" in inspect.signature(model.set_input_size).parameters:
        said["window_size"] = (visit.call.kwargs["window_size"],) * 2
    try:
        model.set_input_size(**said)
    except AttributeError as error:
        if "has no attribute 'set_input_size'" in str(error):  # a part of the model, such as a stem
            raise Unsupported(f"the release's {type(model).__name__} cannot be resized: {error}") from None
        raise


def _not_its_own(visit: Visit) -> str | None:
    own, model = visit.family.sizes(visit.case.arch, visit.case.destination), catalogue().get(visit.case.model_name)
    if model and (own["img_size"], own["patch_size"]) == (model.input_size, model.patch_size):
        return None
    return "the case has other sizes than the registered model"


@_door(
    "`create_model(name, pretrained=True, ...)` without `img_size` and `patch_size`, at the registered model's own",
    _not_its_own,
)
def _own_sizes(visit: Visit) -> nn.Module:
    return visit.call.with_kwargs(img_size=None, patch_size=None).loaded()


def _of_another_kind(visit: Visit) -> bool:
    """Whether a file whose kind is not said may be taken for another: an ``.npz`` file, or one where the model's own is that.

    timm 1.0.31 takes every file for a state dict unless it is told (``timm/models/_builder.py``).
    """
    models: Any = importlib.import_module("timm.models")
    own = visit.loader.release is not None and visit.loader.release < Version("1.0.31")
    return visit.family.in_place or (own and bool(models.get_pretrained_cfg(visit.case.model_name).custom_load))


@_door("`create_model` with `custom_load` left as the registered model has it", may_refuse=_of_another_kind)
def _custom_load_unsaid(visit: Visit) -> nn.Module:
    return visit.call.with_overlay(custom_load=None).loaded()


# -- models that resize in their forward -------------------------------------------------------------------------------


def _same_grid(visit: Visit) -> str | None:
    same = visit.case.source.grid_size == visit.case.destination.grid_size
    return "the model has the checkpoint's grid already" if same else _no_forward(visit)


def _no_forward(visit: Visit) -> str | None:
    if visit.family.tables(visit.case.arch, visit.case.source):
        return "the model's windows do not follow the image"
    if visit.case.dtype != "float32":
        return "resampled positions are not rounded to the checkpoint's half precision in a forward"
    return None


def _dynamic(visit: Visit, **options: bool) -> nn.Module:
    """The model with the checkpoint's grid and the destination's patch size, which takes images of any size."""
    if visit.family.naflex:
        options.pop("dynamic_img_size")  # it always does
    cls: type = model_class(visit.family)
    missing = [name for name in options if name not in parameters(cls)]
    if missing:
        raise Unsupported(f"the release's {visit.family.model_class} has no {', '.join(missing)}")
    there = Geometry(visit.case.destination.patch_size, visit.case.source.grid_size)
    return visit.call.with_kwargs(**sizes(visit.family, visit.case, there), **options).loaded()


@_door(
    "a forward at another image size of a model with `dynamic_img_size=True`",
    _same_grid,
    fed=lambda visit, image: image,
)
def _dynamic_img_size(visit: Visit) -> nn.Module:
    return _dynamic(visit, dynamic_img_size=True)


def _without_last_pixels(visit: Visit, image: Tensor) -> Tensor:
    ph, pw = visit.case.destination.patch_size
    return image[..., : image.shape[-2] - (ph > 1), : image.shape[-1] - (pw > 1)]


@_door(
    "the same of a model with `dynamic_img_pad=True`, for an image that is no multiple of the patch",
    _same_grid,
    fed=_without_last_pixels,
)
def _dynamic_img_pad(visit: Visit) -> nn.Module:
    return _dynamic(visit, dynamic_img_size=True, dynamic_img_pad=True)


def _no_patches(visit: Visit) -> str | None:
    return _no_forward(visit) or _native(visit) if visit.family.naflex else "the model takes images only"


def _as_patches(visit: Visit, image: Tensor) -> dict[str, Tensor]:
    """The image as a NaFlexViT takes it: patches ``(batch, tokens, height, width, in_chans)`` and their coordinates."""
    (ph, pw), (h, w) = visit.case.destination.patch_size, visit.case.destination.grid_size
    cut = image.unflatten(3, (w, pw)).unflatten(2, (h, ph)).permute(0, 2, 4, 3, 5, 1)
    coordinates = torch.cartesian_prod(torch.arange(h), torch.arange(w)).reshape(1, h * w, 2)
    return {
        "patches": cut.flatten(1, 2),
        "patch_coord": coordinates.expand(len(image), -1, -1),
        "patch_valid": torch.ones(len(image), h * w, dtype=torch.bool),
    }


@_door("patches of another size and grid in the forward of a NaFlexViT", _no_patches, fed=_as_patches)
def _naflex_patches(visit: Visit) -> nn.Module:
    call = visit.call.with_kwargs(**sizes(visit.family, visit.case, visit.case.source))
    return call.with_kwargs(enable_patch_interpolator=True).loaded()
