"""Witnesses: stored minimal failing cases, one JSON file each."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..cases.case import Case
from ..errors import UserError, unknown
from ..results.records import UNREADABLE, Failure

# The folder of witnesses beside a ledger, and in what a run writes.
WITNESSES = "witnesses"


class WitnessFile(msgspec.Struct, frozen=True):
    """A stored minimal failing case and the failure it shows."""

    invariant: str
    kind: str
    tensor: str
    case: Case
    schema: int = 1


def read_witness(path: Path) -> WitnessFile:
    """Read one witness file. Raises :class:`UserError`."""
    from ..families import FAMILIES

    try:
        witness = msgspec.json.decode(path.read_bytes(), type=WitnessFile)
    except OSError as error:
        raise UserError(f"witness {path}: {error.strerror or error}; every ledger entry needs one") from None
    except UNREADABLE as error:
        raise UserError(f"witness {path} cannot be read: {error}") from None
    if witness.case.family not in FAMILIES:
        raise UserError(f"witness {path}: {unknown('family', witness.case.family, FAMILIES)}")
    return witness


def witness_files(path: Path) -> list[str]:
    """The witness file ``path``, or all witness files in the folder ``path`` and its subfolders.

    Raises :class:`UserError` for a file that cannot be read, and for a folder without witnesses.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(
            f"{path}: no witness in it; a run stores the witnesses of new failures in its folder {WITNESSES}"
        )
    for file in files:
        read_witness(file)
    return [str(file) for file in files]


def witness_of(invariant: str, failure: Failure) -> WitnessFile:
    """The smallest case of a failure as a witness."""
    return WitnessFile(invariant, failure.kind, failure.tensor, failure.case)


def witness_text(invariant: str, failure: Failure) -> str:
    """The smallest case of a failure, as the text of a witness file."""
    return msgspec.json.format(msgspec.json.encode(witness_of(invariant, failure)), indent=1).decode() + "\n"


def write_witness(folder: Path, invariant: str, failure: Failure) -> Path:
    """Write the smallest case of a failure to its file in ``folder``; returns its path."""
    path = witness_path(folder, failure.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(witness_text(invariant, failure), encoding="utf-8")
    return path


def witness_path(folder: Path, fingerprint: str) -> Path:
    """The file in ``folder`` that stores the witness of a failure."""
    return folder / f"{file_name(fingerprint)}.json"


def witnesses_of(target: str, out: Path) -> Path:
    """The folder in a run's ``out`` that stores the witnesses of a target's new failures."""
    return out / WITNESSES / file_name(target)


def file_name(text: str) -> str:
    """A fingerprint or a target as the name of a file or folder."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)[:150]
