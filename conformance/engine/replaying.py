"""Replays stored witnesses on a loader, and holds the outcome to the ledger."""

from __future__ import annotations

import torch

from ..families import Family
from ..invariants import INVARIANTS
from ..ledger.entries import Entry
from ..ledger.witnesses import WitnessFile
from ..results import records
from ..trials.trial import Trial
from .explorer import Explorer
from .judging import judge


def replay(explorer: Explorer, entry_id: str, witness: WitnessFile, family: Family) -> records.Witness:
    """Replay a stored witness: inside the entry's range it must fail as recorded, outside it must pass.

    A witness without an entry must pass, unless some entry explains its failure. Outside the range another entry explains
    one too, and a loader that is not timm's may pass its witness. Some bugs show only on a GPU; then the replay is not
    applicable on the CPU. Neither is it where the bug of another entry prevents the load.
    """
    entry = explorer.ledger.entry(entry_id)
    owner = next((e for e in explorer.entries if e.id == entry_id), None)
    must_fail = owner is not None and explorer.loader.release is not None and owner.concerns(family.name)
    if not explorer.loader.supports(family):
        return records.Witness(
            explorer.target, entry_id, "not-applicable", True, "the release does not know the format"
        )
    if not INVARIANTS[witness.invariant].judges(explorer.loader.target):
        return records.Witness(explorer.target, entry_id, "not-applicable", True, "the invariant judges timm alone")
    torch.manual_seed(0)
    trial = Trial(family, witness.case, explorer.loader)
    if owner is not None and not owner.meets(trial.regimes):
        reason = (
            f"shows in regime {' or '.join(owner.regime)}, and its case is not in it here, on {explorer.loader.device}"
        )
        return records.Witness(explorer.target, entry_id, "not-applicable", True, reason)
    hiding = _hiding_entry(explorer, trial, entry)
    if hiding is not None and hiding.regime == ["off-cpu"]:
        return records.Witness(explorer.target, entry_id, "not-applicable", True, f"hidden by {hiding.id}")
    judgement = judge(INVARIANTS[witness.invariant], trial)
    if judgement.outcome == "blocked" and hiding is not None and owner is None:
        return records.Witness(explorer.target, entry_id, "not-applicable", True, f"hidden by {hiding.id}")
    if judgement.outcome in ("error", "blocked"):
        return records.Witness(explorer.target, entry_id, "error", False, f"cannot be judged: {judgement.reason}")
    if judgement.outcome == "not-applicable":
        return records.Witness(explorer.target, entry_id, "not-applicable", not must_fail, judgement.reason)
    shown = next((p for p in judgement.problems if (p.kind, p.tensor) == (witness.kind, witness.tensor)), None)
    if shown is None:
        others = "; ".join(p.message for p in judgement.problems)
        message = f"another failure instead: {others}" if others else ""
        return records.Witness(explorer.target, entry_id, "fixed", not must_fail, message)
    excuse = explorer.attribute(trial, INVARIANTS[witness.invariant], shown)
    explained = excuse is not None and (owner is None or bool(excuse.probe))
    return records.Witness(explorer.target, entry_id, "fails", must_fail or explained, shown.message, shown.fraction)


def _hiding_entry(explorer: Explorer, trial: Trial, entry: Entry | None) -> Entry | None:
    """Another entry whose bug prevents the load, so that the witness's own cannot show. One of a GPU alone comes first."""
    load = INVARIANTS["strict-load"]
    owners = [explorer.attribute(trial, load, problem) for problem in judge(load, trial).problems]
    others = [e for e in owners if e and e is not entry]
    return min(others, key=lambda e: e.regime != ["off-cpu"], default=None)
