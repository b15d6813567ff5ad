"""What a file says of its model outside the tensors: configurations and arguments that training scripts save with them.

Sources: openai/CLIP ``clip/model.py`` (``input_resolution``, ``context_length``, ``vocab_size``); Hugging Face transformers'
``config.json``; ``args`` and ``hyper_parameters`` of training scripts and of Lightning; ``pretrained_cfg`` of timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor

from ..families.base import KERNEL

_OPENAI = ("input_resolution", "context_length", "vocab_size")
# Where configurations lie, and their names for what this project calls otherwise.
_PLACES = ("args", "hyper_parameters", "hparams", "config", "cfg")
_OPTIONS = {
    "num_attention_heads": "num_heads",
    "num_heads": "num_heads",
    "hidden_act": "act",
    "layer_norm_eps": "eps",
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
_IMAGE_SIZES = ("img_size", "image_size", "input_size", "input_resolution")
# Rows of positions before those of the patches: class and distillation tokens and registers.
_MOST_PREFIX_ROWS = 16
_MODELS = ("model", "model_name", "arch", "architecture")


@dataclass
class Told:
    """What a file tells: hyperparameters by the names of families, each with its place, and the model's name if it is there.

    ``image_size`` is the size ``(height, width)`` in pixels of the images that it was trained on.
    """

    options: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    model: str = ""
    openai: bool = False
    image_size: tuple[int, int] | None = None

    def add(self, name: str, value: Any, place: str) -> None:
        """Note a hyperparameter, unless another place has told it already."""
        if name not in self.options:
            self.options[name], self.places[name] = value, place

    def text(self) -> list[str]:
        """The notes in words."""
        lines = []
        if self.openai:
            lines.append(
                f"{', '.join(_OPENAI)} beside the tensors show a file of OpenAI's, whose models have QuickGELU; "
                "no tensor tells the activation"
            )
        told = [f"{k}={v} ({self.places[k]})" for k, v in self.options.items() if not (self.openai and k == "act")]
        if self.model:
            lines.append(f"the file names its model: {self.model} ({self.places['model']})")
        return lines + ([f"told outside the tensors: {', '.join(told)}"] if told else [])

    def input_size(self, state: Mapping[str, Tensor]) -> tuple[int, int] | None:
        """The told image size, if it is not square and the positions of ``state``, in timm's layout, are as many as it has.

        A number of tokens tells a square alone.
        """
        size, positions, kernel = self.image_size, state.get("pos_embed"), state.get(KERNEL)
        if (
            size is None
            or size[0] == size[1]
            or positions is None
            or positions.ndim != 3
            or kernel is None
            or kernel.ndim != 4
        ):
            return None
        tokens = prod(side // patch for side, patch in zip(size, kernel.shape[-2:]))
        return size if tokens <= positions.shape[1] <= tokens + _MOST_PREFIX_ROWS else None

    def size_text(self, size: tuple[int, int] | None) -> list[str]:
        """That an image size was taken from there."""
        place = self.places.get("image_size")
        return [f"images of {size[0]}x{size[1]} pixels, as {place} says; --input-size declares others"] if size else []

    def other_heads(self, own: int) -> str:
        """That the file tells another number of heads than the model's ``own``, and the option for it; empty if it does not."""
        heads = self.options.get("num_heads", own)
        place = self.places.get("num_heads")
        return (
            f"{place} says num_heads={heads}, the model has {own}: --option num_heads={heads}" if heads != own else ""
        )


def told(content: Mapping[str, Any], state: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Told:
    """What a file's ``content`` and its opened ``state`` say of the model; ``config`` is a config.json beside it."""
    found = Told(openai=all(name in state for name in _OPENAI))
    if found.openai:
        found.add("act", "quick_gelu", "OpenAI's")
    places = {"config.json": config} | {name: content.get(name) for name in _PLACES}
    for place, held in places.items():
        values = held if isinstance(held, Mapping) else getattr(held, "__dict__", None)
        if not isinstance(values, Mapping):
            continue
        values = {**values, **_inner(values)}
        for name, option in _OPTIONS.items():
            value = values.get(name)
            if option == "act":
                value = _ACTIVATIONS.get(value) if isinstance(value, str) else None
            if isinstance(value, (int, float, str)) and not isinstance(value, bool):
                found.add(option, value, place)
        size = next((size for k in _IMAGE_SIZES if (size := _size(values.get(k)))), None)
        if size and not found.image_size:
            found.image_size, found.places["image_size"] = size, place
        model = next((values[k] for k in _MODELS if isinstance(values.get(k), str)), "")
        if model and not found.model:
            found.model, found.places["model"] = model, place
    return found


def _size(value: Any) -> tuple[int, int] | None:
    """Height and width, from a number, a pair, or channels with a pair."""
    sides = [value, value] if isinstance(value, int) else list(value)[-2:] if isinstance(value, (list, tuple)) else []
    whole = len(sides) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides)
    return (sides[0], sides[1]) if whole else None


def _inner(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The image tower's part of the configuration of a model of images and text."""
    inner = values.get("vision_config")
    return inner if isinstance(inner, Mapping) else {}
