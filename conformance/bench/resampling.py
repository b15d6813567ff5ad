"""Compares the processor time of the reference with that of timm releases, at the sizes of real models.

A change of patch size resamples the patch kernel and, at the same image size, the position grid. Both are timed separately, and
their sum is shown too, because every load does both. A conversion is the loader's function on a whole checkpoint. The strict load
after it is not measured: it is torch's and the same for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from typing import Any

from packaging.version import Version

from ..errors import UserError
from ..targets import target as targets
from . import subject
from .part import Part
from .subject import CHANGES, STATES, Change
from .timing import Timed, in_turn

RELEASES = ("0.9.16", "1.0.3", "1.0.20", "1.0.31")
WANTED = 3.0
_REFERENCE = "reference"
_LOADS = (
    ("B/16 → 14", "openai_clip"),
    ("B/16 → 14", "timm_native"),
    ("L/14 → 28", "openai_clip"),
    ("L/14 → 28", "timm_native"),
)
_SECONDS = 20.0  # of one comparison; if it takes longer, two rounds are enough

Pools = dict[str, ProcessPoolExecutor]


def compare(releases: Sequence[str], rounds: int, sizes: Sequence[str] = ()) -> list[Part]:
    """The parts about single tensors and whole checkpoints; ``sizes`` are names of :data:`CHANGES`, all by default."""
    specs = [_REFERENCE, *(f"timm=={v}" for v in sorted(releases, key=Version))]
    changes = [c for c in CHANGES if not sizes or c.name in sizes]
    with ExitStack() as stack:
        pools = {spec: stack.enter_context(_process(spec)) for spec in specs}
        for spec in pools:  # all have started before anything is timed
            _call(pools, spec, os.getpid)
        parts = [_tensors(pools, changes, rounds), _checkpoints(pools, changes, rounds)]
    return [part for part in parts if part.rows]


def _process(spec: str) -> ProcessPoolExecutor:
    targets.prepare(targets.parse_target(spec))
    return ProcessPoolExecutor(1, get_context("spawn"), subject.start, (spec,))


def _call(pools: Pools, spec: str, question: Callable, *about: object) -> Any:
    try:
        return pools[spec].submit(question, *about).result()
    except BrokenProcessPool:
        raise UserError(f"target {spec!r}: its process ended; does `timm-conformance run {spec}` start?") from None


def _rounds(pools: Pools, rounds: int, *about: object) -> dict[str, list[tuple[float, ...]]]:
    return in_turn({spec: partial(_call, pools, spec, subject.timed, *about) for spec in pools}, rounds, _SECONDS)


def _row(taken: dict[str, list[tuple[float, ...]]], state: int, **about: str) -> dict:
    """A row of times; those of the releases are multiples of the reference's as well."""
    row: dict = {**about, "state": STATES[state]}
    ours = [times[state] for times in taken[_REFERENCE]]
    for spec, rounds in taken.items():
        theirs = [times[state] for times in rounds]
        row[spec] = Timed.of(theirs, None if spec == _REFERENCE else ours)
    return row


def _tensors(pools: Pools, changes: Sequence[Change], rounds: int) -> Part:
    rows = []
    for change in changes:
        kernel, positions = (_rounds(pools, rounds, step, change) for step in ("kernel", "positions"))
        both = {s: [tuple(map(sum, zip(*pair))) for pair in zip(kernel[s], positions[s])] for s in kernel}
        for what, taken in (("kernel", kernel), ("positions", positions), ("both", both)):
            rows += [_row(taken, state, change=change.name, what=what) for state in range(len(STATES))]
    newest = list(pools)[-1]
    findings = [f"Wanted: the reference at least {WANTED:.0f} times as fast as {newest} at every size, both tensors."]
    for what in ("both", "kernel", "positions"):
        for state in STATES:
            ratios = {r["change"]: r[newest].ratio for r in rows if (r["what"], r["state"]) == (what, state)}
            least = min(ratios, key=lambda change: ratios[change])
            findings.append(f"{what}, {state}: {ratios[least]:.2f} times at least, at {least}")
    return Part("resampling", "Patch kernel and position grid at real sizes", rows, findings)


def _checkpoints(pools: Pools, changes: Sequence[Change], rounds: int) -> Part:
    rows, findings = [], []
    by_name = {c.name: c for c in changes}
    for name, family in _LOADS:
        if name not in by_name:
            continue
        taken = _rounds(pools, rounds, "convert", by_name[name], family)
        rows += [_row(taken, state, checkpoint=f"ViT-{name}, {family}") for state in range(len(STATES))]
        reasons = {spec: _call(pools, spec, subject.refusal, by_name[name], family) for spec in pools}
        findings += [
            f"{spec}, ViT-{name}, {family}: no model loads this: {why}" for spec, why in reasons.items() if why
        ]
    return Part("checkpoints", "Conversion of whole checkpoints, with the resampling", rows, findings)
