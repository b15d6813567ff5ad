"""``doctor``: shows whether this environment can run the suite."""

from __future__ import annotations

import importlib.metadata
import platform

from ..errors import EXIT_EXPECTED, EXIT_USAGE
from ..probes.registry import ask
from ..report.terminal import make_console
from ..targets import releases, torchvision_shim
from ..targets.target import DEFAULT_TARGETS, MODEL_RELEASE

_NEEDED = ("torch", "torchvision", "safetensors", "huggingface_hub", "PyYAML", "hypothesis", "pytest")
_OPTIONAL = ("timm", "open_clip_torch")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine() -> int:
    """Print the environment; returns 0, or 2 when something the suite needs is missing."""
    console = make_console()
    console.print(f"Python {platform.python_version()} on {platform.platform(terse=True)}")
    missing = [name for name in _NEEDED if _version(name) is None]
    for name in _NEEDED + _OPTIONAL:
        console.print(
            f"{name:<16} {_version(name) or ('MISSING' if name in missing else 'not installed')}", markup=False
        )
    if "torch" not in missing:
        import torch

        cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none seen: CUDA checks cannot run here"
        console.print(f"{'CUDA':<16} {cuda}", markup=False)
        shim = "in use: torchvision has no compiled operators" if torchvision_shim.install() else "not needed"
        console.print(f"{'shim':<16} {torchvision_shim.NAME} {shim}", markup=False)
        for answer in ask():
            style = "yellow" if answer.answer == "wrong" else None
            console.print(f"{'probe':<16} {answer.describe()}", style=style, markup=False, soft_wrap=True)
    cached = releases.cached()
    console.print(f"{'release cache':<16} {releases.cache_dir()}", markup=False)
    console.print(f"{'cached':<16} {', '.join(cached) or 'none: run fetches what it needs'}", markup=False)
    absent = [t for t in (*DEFAULT_TARGETS, f"timm=={MODEL_RELEASE}") if "==" in t and t.split("==")[1] not in cached]
    for target in dict.fromkeys(absent):
        console.print(f"{'':<16} {target} will be fetched with pip on first use", markup=False)
    if missing:
        console.print(f"missing: {', '.join(missing)}; install them with pip", style="red", markup=False)
    return EXIT_USAGE if missing else EXIT_EXPECTED
