"""Finds the probes and asks them. A process asks once; workers inherit the answers of the process that forks them.

A probe is a module of this folder. Its name with hyphens is the probe's name. It defines ``LIBRARY``, the name under which the
library is imported; ``DOES``, what it is asked to do, as the predicate of a sentence; ``measure(device)``, which returns the
expected numbers and those that the library computes; and ``TOLERANCE``, the largest difference of the two. Run as a script, it
prints the library's version and both rows of numbers, and exits with 1 where they differ.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

FOLDER = Path(__file__).resolve().parent


class ProbeAnswer(msgspec.Struct, frozen=True):
    """What a probe found about a library on a device.

    ``answer`` is ``wrong`` where the library has the fault, ``right`` where it has not, and ``unknown`` where the probe could
    not be run. ``text`` says it in a sentence with the library's version, and ``numbers`` what was expected and what came.
    """

    name: str
    library: str
    version: str
    device: str
    answer: Literal["right", "wrong", "unknown"]
    text: str
    numbers: str = ""

    def describe(self) -> str:
        """The answer in one line."""
        return (
            f"{self.text} ({self.numbers}; probe {self.name})" if self.numbers else f"{self.text} (probe {self.name})"
        )


def probe_names() -> list[str]:
    """The names of all probes."""
    own = Path(__file__).stem
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules([str(FOLDER)]) if m.name != own)


def source_of(name: str) -> Path:
    """The script of a probe."""
    return FOLDER / f"{name.replace('-', '_')}.py"


@cache
def ask(device: str = "cpu") -> tuple[ProbeAnswer, ...]:
    """The answers of all probes on a device."""
    return tuple(_ask(name, device) for name in probe_names())


def _ask(name: str, device: str) -> ProbeAnswer:
    probe = importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
    version = str(importlib.import_module(probe.LIBRARY).__version__)
    where = f"{probe.LIBRARY} {version}" + (f" on {device}" if device != "cpu" else "")
    try:
        expected, got = probe.measure(device)
    except Exception as error:  # an operation that a device lacks, for example
        text = f"{where} cannot be asked whether it {probe.DOES} correctly: {type(error).__name__}"
        return ProbeAnswer(name, probe.LIBRARY, version, device, "unknown", text)
    wrong = len(expected) != len(got) or any(not abs(e - g) <= probe.TOLERANCE for e, g in zip(expected, got))
    text = f"{where} {probe.DOES} {'wrongly' if wrong else 'correctly'}"
    numbers = f"expected {_row(expected)}, got {_row(got)}" if wrong else ""
    return ProbeAnswer(name, probe.LIBRARY, version, device, "wrong" if wrong else "right", text, numbers)


def _row(numbers: Sequence[float]) -> str:
    return " ".join(f"{x:.4f}" for x in numbers)


def faults(answers: Iterable[ProbeAnswer]) -> dict[str, ProbeAnswer]:
    """The answers that found a fault, by the probe's name."""
    return {a.name: a for a in answers if a.answer == "wrong"}
