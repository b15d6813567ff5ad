"""A loader of OpenAI CLIP checkpoints to break: small, and right enough to survive the suite for its own family."""

from __future__ import annotations

import torch
from torch import nn

from timm_conformance import reference


def prefixed(checkpoint: dict) -> dict:
    """The checkpoint without its wrapper; the second branch is never taken."""
    if "state_dict" in checkpoint:
        checkpoint = checkpoint["state_dict"]
    elif "nobody_writes_this" in checkpoint:
        checkpoint = {}
    return checkpoint


def convert(checkpoint: dict, model: nn.Module) -> dict[str, torch.Tensor]:
    """The reference, with a function of its own before it."""
    return reference.load_state_dict(prefixed(checkpoint), model)
