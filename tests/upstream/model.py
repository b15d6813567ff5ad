"""What a builder makes: a tiny upstream model with random weights, its checkpoint, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from timm_conformance.cases.case import Case, Geometry
from timm_conformance.families import FAMILIES, Family
from timm_conformance.trials import bounds

# The grid every weight lies on. Files hold float32, and so does the sum of two weights: no rounding on either side.
_STEP = 2.0**-12
_SPREAD = 0.2

PATCH4 = Geometry((4, 4), (4, 4))
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4, "class_token": True, "reg_tokens": 0}


@dataclass(frozen=True)
class Upstream:
    """A tiny upstream model.

    family      name of the suite's family its checkpoints belong to
    origin      package, file and class it comes from
    arch        the family's architecture options
    checkpoint  what the upstream training script saves, in float32
    run         the upstream model: pooled output on a float64 image
    precision   the coarsest dtype upstream computes in, whatever it is given
    source      patch and grid of the checkpoint, ``destination`` of the model where that differs
    positions   name of the tensor that upstream resizes in its forward pass for such a model
    known       the ledger's bug that timm shows on this checkpoint
    """

    family: str
    origin: str
    arch: Mapping[str, Any]
    checkpoint: Mapping[str, Any]
    run: Callable[[Tensor], Tensor]
    precision: torch.dtype = torch.float64
    source: Geometry = PATCH4
    destination: Geometry | None = None
    positions: str = ""
    known: str | None = None

    @cached_property
    def suite_family(self) -> Family:
        """The family itself."""
        return FAMILIES[self.family]

    @cached_property
    def case(self) -> Case:
        """The suite's case that describes the checkpoint and the model it is loaded into."""
        return Case(self.family, dict(self.arch), self.source, self.destination or self.source)

    @cached_property
    def image(self) -> Tensor:
        """Two random images of the model's size, float64 holding what float32 can."""
        size = self.suite_family.img_size(self.arch, self.case.destination)
        generator = torch.Generator().manual_seed(1)
        return torch.randn(2, 3, *size, generator=generator).double()

    @cached_property
    def output(self) -> Tensor:
        """What upstream computes of :attr:`image`, as float64."""
        return self._output(self.image)

    @torch.no_grad()
    def _output(self, image: Tensor) -> Tensor:
        return self.run(image).detach().double()

    @cached_property
    def limit(self) -> float:
        """How far a correct forward pass in float64 may be from upstream's.

        As in ``timm_conformance.trials.bounds.forward``, one unit of upstream's precision for each product in the longest
        chain, but these add up like a random walk: the square root of their number; amplified as much as upstream's own
        output moves under a small relative change of the image. The change is the cube root of the unit: far above
        rounding, far below what is not linear any more.
        """
        unit = torch.finfo(self.precision).eps
        nudge = unit ** (1 / 3)
        signs = torch.randn(self.image.shape, generator=torch.Generator().manual_seed(2)).sign()
        moved = self._output(self.image * (1 + nudge * signs))
        sensitivity = float((moved - self.output).norm() / self.output.norm()) / nudge
        patch = self.suite_family.stride(self.arch) * self.source.patch_size[0]
        width = self.arch["embed_dim"] * (4 + 2 * max(self.arch["mlp_ratio"], 4))
        operations = 3 * patch**2 + self.arch["depth"] * (self.case.destination.tokens + width)
        limit = bounds.forward(self.output, isqrt(int(operations)), sensitivity)
        return limit * unit / torch.finfo(torch.float64).eps


def weights(shape: Sequence[int], generator: torch.Generator, centre: float = 0.0) -> Tensor:
    """Random weights around ``centre``."""
    noise = (torch.randn(shape, generator=generator) * _SPREAD).clamp(-0.9, 0.9)
    return ((centre + noise) / _STEP).round() * _STEP


@torch.no_grad()
def randomise(model: nn.Module, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic another random value: unit norms and zero biases would hide a mix-up.

    Scales spread around 1 (norms) or 1/2 (layer scale), everything else around 0.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = {}
    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            centres[f"{name}.weight"] = centres[f"{name}.running_var"] = 1.0
    for name, value in sorted([*model.named_parameters(), *model.named_buffers()]):
        if value.is_floating_point():
            value.copy_(weights(value.shape, generator, 0.5 if name.endswith("gamma") else centres.get(name, 0.0)))
    return model.to(dtype).eval()


def saved(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A model's state dict as a file holds it: float32, under ``prefix``."""
    state = model.state_dict()
    return {prefix + k: v.float() if v.is_floating_point() else v.clone() for k, v in state.items()}
