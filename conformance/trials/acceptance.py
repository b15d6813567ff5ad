"""Whether a user gets a loaded model: the conversion does not raise, and its result passes a strict load."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .loaded import Loaded
from .trial import Trial


def fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has exactly a model's tensor names and shapes."""
    return {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state.items()}


def accepted(trial: Trial, loaded: Loaded) -> bool:
    """Whether the user gets a loaded model without an exception. No strict load follows where the loader writes into it."""
    return loaded.ok and (trial.loader.writes_into_model(trial.family) or fits(trial.model(), loaded.raw))
