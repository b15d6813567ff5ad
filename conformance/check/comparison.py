"""Compares a user's checkpoint, as the target loads it, with the reference: tensor by tensor, and by the model's output."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from .. import reference
from ..cases.case import Case
from ..cases.regimes import regimes
from ..families import Family
from ..invariants.equivalence import same_outputs
from ..reference.destination import Destination
from ..reference.loader import Source
from ..targets.loader import Loader
from ..trials.problems import Problem
from ..trials.trial import Trial
from .float64 import InFloat64
from .loading import Loaded
from .protocol import Difference

# Largest memory, in bytes, of one block's attention matrix for which the upstream forward is run.
_ATTENTION = 2**30
_AXES = (".rel_pos_h", ".rel_pos_w")


class CheckpointTrial(Trial):
    """A trial of a user's checkpoint.

    ``source`` is the checkpoint as the reference read it for the model, ``right`` the reference's state dict, ``outcome`` the
    target's load.
    """

    def __init__(
        self,
        family: Family,
        case: Case,
        loader: Loader,
        source: Source,
        destination: Destination,
        right: Mapping[str, Tensor],
        loaded: Loaded,
    ) -> None:
        super().__init__(family, case, loader)
        self.source, self.destination = source, destination
        self.format, self.resampling, self.prefix_rows = source.format, source.resampling, source.prefix_rows
        self.right, self.outcome = right, loaded

    @cached_property
    def truth(self) -> dict[str, Tensor]:
        """The checkpoint in timm's layout, as the reference reads it."""
        return self.source.state

    @cached_property
    def tables(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Old and new windows of the relative position tables by name, read from the tensors and from the model."""
        found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        found |= {name: (old, self.destination.windows[name]) for name, old in self.source.windows.items()}
        for name in (k for k in self.truth if k.endswith(_AXES)):
            old, new = len(self.truth[name]), self.destination.shapes[name][0]
            found[name] = ((old + 1) // 2,), ((new + 1) // 2,)
        return found

    @cached_property
    def regimes(self) -> frozenset[str]:
        """The case's regimes, with all of the family's own if the model's options do not decide them."""
        try:
            return super().regimes
        except KeyError:
            return regimes(self.case, self.prefix_tokens) | self.family.own_regimes

    @cached_property
    def created(self) -> dict[str, Tensor]:
        """The reference's tensors, without a classifier that is the model's own."""
        state = self.family.canonical(self.case, dict(self.right))
        return {k: v for k, v in state.items() if not v.is_meta}

    def differences(self) -> Iterator[Problem]:
        """Problems where the target's tensors differ from the reference's, and unexpected names of a refused load."""
        given = self.outcome.state_dict
        yield from self.compare_all(self.family.canonical(self.case, dict(given)), self.created, self.created_bound)
        if self.outcome.failure is not None:
            for name in [k for k in given if k not in self.right]:
                yield Problem("unexpected-key", name, f"{name} is unexpected")

    # -- the forward pass --------------------------------------------------------------------------------------------

    def at_native_geometry(self) -> CheckpointTrial:
        """The trial at the checkpoint's own geometry, classes and channels, without the tensors that were compared.

        The target's load is kept if it has this geometry already; otherwise the checkpoint has to be loaded again.
        """
        case = replace(self.case, destination=self.case.source, in_chans=None, num_classes=None)
        source = dataclasses.replace(self.source, state={})
        embed = getattr(self.outcome.model, "patch_embed", None)
        cut = getattr(embed, "img_size", None) not in (None, self.family.img_size(case.arch, case.source))
        loaded = Loaded() if cut or case != self.case else self.outcome
        other = CheckpointTrial(self.family, case, self.loader, source, self.destination, {}, loaded)
        other.tables = self.tables
        return other

    def incomparable(self) -> str | None:
        """Why the upstream forward cannot be run on this checkpoint, or None."""
        heads, tokens = self.case.arch["num_heads"], self.case.source.tokens
        attended = min(tokens, self.case.arch.get("window_size", 0) ** 2 or tokens)
        if 8 * 2 * heads * tokens * attended > _ATTENTION:
            return f"attention over {tokens} tokens, written out in float64, takes too much memory"
        return self.family.no_output(self.case)

    def outputs(self, upstream: Mapping[str, Tensor]) -> Iterator[Problem]:
        """Problems where the loaded model's output differs from the upstream forward's on the ``upstream`` tensors.

        Raises :class:`reference.LoadError` if the upstream forward cannot run.
        """
        self._upstream_tensors = upstream
        yield from same_outputs(self, computed=_output, images=1)

    def upstream_output(self, image: Tensor, nudged: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Output of the upstream model on ``image``, in float64, from the tensors that :meth:`outputs` was given."""
        arch = {**self.case.arch, "patch_size": self.case.source.patch_size}
        with torch.inference_mode(), InFloat64(nudged):
            return reference.forward(self._upstream_tensors, image, arch)

    def model(self, *_: object, **__: object) -> nn.Module:
        """The model that the target loaded."""
        assert self.outcome.model is not None, "the target does not load the checkpoint"
        return self.outcome.model

    @property
    def raw(self) -> dict[str, Tensor]:
        """The state dict of that model."""
        return dict(self.model().state_dict())


def _output(model: nn.Module, state: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """Output of a model, in float64, on an image with the tensors that it holds."""
    with torch.inference_mode(), InFloat64():
        return model(image)


def grouped(problems: Iterable[Problem], explain: Callable[[Problem], list[str]]) -> list[Difference]:
    """Group problems by kind and by tensor name without block numbers. Each difference describes the worst of its group."""
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.kind, problem.tensor].append(problem)
    found = []
    for (kind, tensor), alike in groups.items():
        worst = max(alike, key=lambda p: float("inf") if p.fraction is None else p.fraction)
        found.append(Difference(kind, tensor, len(alike), worst.message, worst.fraction, explain(worst)))
    return found
