"""Looks for the families that show a known bug of GPUs in one release, on the pretend device.

``python -m tests.pretend_cuda_claims ENTRY TARGET`` prints a line for each family that the entry claims for the release and
that shows the bug in no witness and no drawn case, then ``seen in N families``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import chain

from tests import pretend_cuda
from timm_conformance.cases.case import Case
from timm_conformance.cases.profiles import profile
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.engine.judging import judge
from timm_conformance.engine.session import judging_settings
from timm_conformance.families import FAMILIES
from timm_conformance.invariants import INVARIANTS
from timm_conformance.ledger.entries import DEFAULT_LEDGER, Entry, load_ledger
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import parse_target
from timm_conformance.trials.trial import Trial


def shows(entry: Entry, cases: Iterable[Case], loader: Loader) -> bool:
    """Whether one of a family's cases has a failure that the entry covers."""
    for case in cases:
        family = FAMILIES[case.family]
        trial = Trial(family, case, loader)
        for invariant in (i for i in INVARIANTS.values() if entry.claims(family.name, i.name)):
            found = judge(invariant, trial).problems
            if any(entry.covers(family.name, invariant.name, p.kind, p.tensor, trial.regimes) for p in found):
                return True
    return False


def main(entry_id: str, target: str) -> None:
    """Print what was looked for in vain, and how many families show the bug."""
    pretend_cuda.install()
    known_bugs = load_ledger(DEFAULT_LEDGER)
    entry = known_bugs.entry(entry_id)
    assert entry is not None, entry_id
    seen = 0
    with judging_settings(pretend_cuda.NAME):
        loader = Loader(parse_target(target), pretend_cuda.NAME)
        drawing = Drawing(profile("gate"), 0, focused=True)
        for family in FAMILIES.values():
            if not (entry.concerns(family.name) and loader.supports(family)):
                continue
            stored = [w.case for w in known_bugs.witnesses.values() if w.case.family == family.name]
            drawn = (case for cases in drawing.cases(family).values() for case in cases)
            if shows(entry, chain(stored, drawn), loader):
                seen += 1
            else:
                print(f"{entry_id} is claimed for {family.name} in {target}, and no case shows it", flush=True)
    print(f"seen in {seen} families", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
