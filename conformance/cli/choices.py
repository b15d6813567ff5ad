"""Turns command-line arguments into values: invariants, device, targets."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ..errors import UserError, choose
from ..targets import releases
from ..targets.target import DEFAULT_TARGETS, parse_target


def choose_invariants(names: Sequence[str]) -> list[str]:
    """The chosen invariants. An empty list means all: their registry needs torch, which only workers import."""
    if not names:
        return []
    from ..invariants import INVARIANTS

    return choose("invariant", names, INVARIANTS)


def choose_device(name: str, console: Console) -> str:
    """The chosen device. ``auto`` prints a note where it falls back to the CPU. Raises :class:`UserError`."""
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise UserError("--device cuda: no CUDA device is visible to torch; use --device cpu, or auto")
    console.print("device auto: no CUDA device is visible; everything runs on the CPU, nothing on CUDA", style="yellow")
    return "cpu"


def choose_targets(named: Sequence[str], specifier: str | None, console: Console) -> list[str]:
    """The releases that a specifier admits, then the named targets; the default targets where both are empty."""
    found: list[str] = []
    if specifier is not None:
        versions, asked = releases.matching(specifier)
        found = [f"timm=={v}" for v in versions]
        if not asked:
            console.print(
                f"the package index cannot be reached: using the {len(found)} matching releases in the cache",
                style="yellow",
            )
    chosen = list(dict.fromkeys((*found, *named))) or list(DEFAULT_TARGETS)
    for spec in chosen:
        parse_target(spec)
    return chosen
