"""Ambient states: settings of torch around a load that change what its functions do, and that a load should not depend on.

They are the default dtype and device, autocast, grad mode, inference mode and deterministic algorithms. A case names one of
them (:attr:`.Case.ambient`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


@contextmanager
def within(state: str, device: str) -> Iterator[list[str]]:
    """Run the block in an ambient state, and put torch's settings back afterwards, whatever the block does to them.

    All other settings are torch's own defaults meanwhile. ``device`` is the one that autocast is for. Gives a list, to which
    the end of the block adds a line for each setting that the block left changed.
    """
    outside = _settings(device)
    changed: list[str] = []
    try:
        _set_plain()
        with STATES[state](device):
            before = _settings(device)
            yield changed
            after = _settings(device)
        changed += [f"{name} is {after[name]}, was {before[name]}" for name in before if after[name] != before[name]]
    finally:
        torch.set_default_dtype(outside["the default dtype"])
        torch.set_grad_enabled(outside["grad mode"])
        torch.use_deterministic_algorithms(**outside["use_deterministic_algorithms"])
        default = outside["the default device"]
        torch.set_default_device(None if default == torch.device("cpu") else default)  # None needs no mode of torch's


def _set_plain() -> None:
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)


def _settings(device: str) -> dict[str, Any]:
    """torch's settings by their names in words."""
    one = torch.ones(1, 1, dtype=torch.float32, device=device)
    return {
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "autocast, by the dtype of a float32 product,": (one @ one).dtype,
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "use_deterministic_algorithms": {
            "mode": torch.are_deterministic_algorithms_enabled(),
            "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        },
    }


@contextmanager
def _set(setter: Callable[[Any], None], value: Any) -> Iterator[None]:
    setter(value)  # within() sets it back
    yield


# How a program on the CPU enters a state, and how it leaves one that it does not enter by a context manager.
CODE = {
    "default-float64": ("torch.set_default_dtype(torch.float64)", "torch.set_default_dtype(torch.float32)"),
    "default-bfloat16": ("torch.set_default_dtype(torch.bfloat16)", "torch.set_default_dtype(torch.float32)"),
    "default-device": ('torch.set_default_device("meta")', "torch.set_default_device(None)"),
    "autocast": ('torch.autocast("cpu", torch.bfloat16)', ""),
    "inference-mode": ("torch.inference_mode()", ""),
    "no-grad": ("torch.no_grad()", ""),
    "deterministic": ("torch.use_deterministic_algorithms(True)", "torch.use_deterministic_algorithms(False)"),
}
STATES: dict[str, Callable[[str], AbstractContextManager]] = {
    "default-float64": lambda device: _set(torch.set_default_dtype, torch.float64),
    "default-bfloat16": lambda device: _set(torch.set_default_dtype, torch.bfloat16),
    # Everywhere a device that is not the checkpoint's, as "cuda" is for a file read on the CPU.
    "default-device": lambda device: _set(torch.set_default_device, "meta"),
    "autocast": lambda device: torch.autocast(torch.device(device).type, torch.bfloat16),
    "inference-mode": lambda device: torch.inference_mode(),
    "no-grad": lambda device: torch.no_grad(),
    "deterministic": lambda device: _set(torch.use_deterministic_algorithms, True),
}
