"""What a file meets in our code when a user hands it to us, from reading it to the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tests.small_vit import Model
from timm_conformance import reference
from timm_conformance.cases.case import Case
from timm_conformance.check.reading import beside, read
from timm_conformance.check.sanity import require_weights
from timm_conformance.errors import UserError
from timm_conformance.families import FAMILIES
from timm_conformance.ledger.witnesses import read_witness
from timm_conformance.reference import LoadError
from timm_conformance.results import records
from timm_conformance.targets.declared_size import declared_size


def feed(path: Path, case: Case) -> str:
    """Give a file to whatever reads such files; a checkpoint is meant for the destination model of ``case``.

    Returns how far it came. A refusal early does not spare what comes later in another order elsewhere, so every stage is
    tried; the first refusal is raised at the end. Anything but :class:`UserError` and :class:`LoadError` passes through.
    """
    if path.name.endswith("witness.json"):
        read_witness(path)
        return "witness"
    if path.suffix == ".json":
        return _case(path)
    if path.suffix == ".ndjson":
        found = records.Results(records.read(path))
        return f"{min(len(found.records), 1)} or more records, {len(found.targets) and 'with'} targets"
    content = read(path)
    first: list[Exception] = []

    def stage(work: Callable[[], object]) -> None:
        try:
            work()
        except (UserError, LoadError) as error:
            first.append(error)

    family = FAMILIES[case.family]
    model = Model(family, case.arch, case.destination, declared_size(family, case, case.source))
    image = torch.zeros(1, case.arch.get("in_chans", 3), *family.img_size(case.arch, case.source))
    arch = case.arch | family.forward_arch(case)
    stage(lambda: beside(path, content))
    stage(lambda: require_weights(reference.unwrap(content)))
    stage(lambda: reference.load_state_dict(content, model))
    stage(lambda: reference.forward(content, image, arch))
    for error in first:
        raise error
    return "loaded"


def _case(path: Path) -> str:
    """A case on its own: text that is none is refused by msgspec, in one line."""
    try:
        Case.from_json(path.read_bytes()).describe()
    except records.UNREADABLE as error:
        raise UserError(str(error)) from None
    return "case"
