"""Whether timm fails in the same way as a loader that is not timm's, and which known bug that is."""

from __future__ import annotations

from functools import cached_property

import torch
from packaging.version import Version

from ..invariants import Invariant
from ..ledger.entries import Ledger, first_covering
from ..targets.loader import Loader
from ..targets.target import Target
from ..trials.problems import Problem
from ..trials.trial import Trial
from .judging import judge


class BesideTimm:
    """Judges failing cases of a ``loader:`` target again on the timm that builds its models."""

    def __init__(self, loader: Loader, ledger: Ledger) -> None:
        self.loader = loader
        self.ledger = ledger

    @cached_property
    def timm(self) -> Loader:
        """timm's own loader of the version that builds the destination models."""
        kind = "installed" if self.loader.target.models == "installed" else "timm"
        return Loader(Target(f"timm=={self.loader.timm_version}", kind, self.loader.timm_version), self.loader.device)

    def same_as(self, trial: Trial, invariant: Invariant, problem: Problem) -> str:
        """``timm 1.0.31 does the same: ENTRY (title)`` where timm shows a problem on the same case too; otherwise empty.

        No entry is named where the ledger explains timm's failure by none.
        """
        if not self._shows(trial, invariant, problem):
            return ""
        version, found = self.loader.timm_version, (problem.kind, problem.tensor)
        known = (e for e in self.ledger.active(Version(version)) if not e.probe)
        entry = first_covering(known, trial.family.name, invariant.name, found, trial.regimes)
        return f"timm {version} does the same" + (f": {entry.id} ({entry.title})" if entry else "")

    def _shows(self, trial: Trial, invariant: Invariant, problem: Problem) -> bool:
        if not self.timm.supports(trial.family):
            return False
        torch.manual_seed(trial.case.contents.seed)
        found = judge(invariant, Trial(trial.family, trial.case, self.timm)).problems
        return any((p.kind, p.tensor) == (problem.kind, problem.tensor) for p in found)
