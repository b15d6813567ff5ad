"""Judges a target with checkpoint and model on the pretend device, in a process of its own.

``python -m tests.pretend_cuda_worker REPORT TARGET FAMILY...`` writes the records to a file. With the reference as target it
also runs the upstream forward of each family there, and ends with an error where that is not what it is on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests import pretend_cuda
from timm_conformance import reference
from timm_conformance.cases.selection import Selection
from timm_conformance.checkpoints import state_dicts
from timm_conformance.engine.session import Session
from timm_conformance.families import FAMILIES
from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.results import records
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.expectation import Expectation


def leaves_some_behind(checkpoint: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A wrong loader: every second tensor comes back on the CPU."""
    state = reference.load_state_dict(checkpoint, model)
    return {k: v.cpu() if n % 2 else v for n, (k, v) in enumerate(state.items())}


def adds_a_constant_of_the_cpu(checkpoint: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A wrong loader: what it adds was made without a device."""
    state = reference.load_state_dict(checkpoint, model)
    return {k: v + torch.zeros(v.shape, dtype=v.dtype) for k, v in state.items()}


def goes_through_numpy(checkpoint: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A wrong loader: a GPU's tensor is no array."""
    state = reference.load_state_dict(checkpoint, model)
    return {k: torch.from_numpy(v.numpy()).to(v.device) for k, v in state.items()}


def judge(report: str, target: str, *families: str) -> None:
    """Judge families of a target by every invariant, with what the ledger knows; witnesses too."""
    pretend_cuda.install()
    with open(report, "wb") as file:

        def record(one: records.Record) -> None:
            file.write(records.encode(one))

        device, asked = pretend_cuda.NAME, parse_target(target)
        session = Session(asked, Selection(tuple(families), profile="smoke", device=device), record=record)
        known = load_ledger(DEFAULT_LEDGER).witnesses
        for name in session.witnesses():
            if "ambient" not in known[name].invariant or known[name].case.ambient not in pretend_cuda.PLAIN:
                session.replay(name)
        for family in session.families:
            session.explore(family)
            if target == "reference":
                forward(session, family)
        session.close()


def forward(session: Session, family: str) -> None:
    """Run the upstream model on the pretend device, from the family's first case that has an image."""
    for case in (case for drawn in session.drawing.cases(FAMILIES[family]).values() for case in drawn):
        asked = Expectation(FAMILIES[family], case)
        if not case.native or case.source.tokens > 64:
            continue
        size = (1, case.arch.get("in_chans", 3), *asked.family.img_size(case.arch, case.source))
        image = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        want, held = asked.upstream_output(image), asked.upstream
        asked.upstream = state_dicts.copy(held, pretend_cuda.NAME)
        got = asked.upstream_output(image.to(pretend_cuda.NAME))
        assert got.device.type == pretend_cuda.NAME, f"{family}: the output is on {got.device}"
        torch.testing.assert_close(got.cpu(), want, rtol=1e-12, atol=1e-12, msg=lambda text: f"{family}: {text}")
        return


if __name__ == "__main__":
    judge(*sys.argv[1:])
