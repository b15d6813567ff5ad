"""What a file says of its model outside the tensors: configurations and arguments that training scripts save with them.

Sources: openai/CLIP ``clip/model.py`` (``input_resolution``, ``context_length``, ``vocab_size``); Hugging Face transformers'
``config.json``; ``args`` and ``hyper_parameters`` of training scripts and of Lightning; ``pretrained_cfg`` of timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
_MODELS = ("model", "model_name", "arch", "architecture")


@dataclass
class Told:
    """What a file tells: hyperparameters by the names of families, each with its place, and the model's name if it is there."""

    options: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    model: str = ""
    openai: bool = False

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
        model = next((values[k] for k in _MODELS if isinstance(values.get(k), str)), "")
        if model and not found.model:
            found.model, found.places["model"] = model, place
    return found


def _inner(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The image tower's part of the configuration of a model of images and text."""
    inner = values.get("vision_config")
    return inner if isinstance(inner, Mapping) else {}
