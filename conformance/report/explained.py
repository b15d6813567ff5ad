"""A cause of failures in words, and where its witness and its script lie in a folder of results."""

from __future__ import annotations

from pathlib import Path

from ..ledger.witnesses import file_name, witness_path, witnesses_of
from ..results.causes import Group
from ..results.explained import told_of

SCRIPTS = "repro"


def told(group: Group) -> list[tuple[str, str]]:
    """Labels and texts of a cause, in order. Each text is one line; those of ``expected`` and ``got`` are aligned."""
    return told_of(group.shown.invariant, group.shown.failure)


def replay_command(group: Group) -> str:
    """The command that replays a cause in the folder of the results."""
    target, fingerprint = group.name
    path = witness_path(witnesses_of(target, Path()), fingerprint)
    return f"timm-conformance replay {path.as_posix()} {target}"


def script_path(out: Path, group: Group) -> Path:
    """Where the script of a cause lies in a folder of results."""
    target, fingerprint = group.name
    return out / SCRIPTS / file_name(target) / f"{file_name(fingerprint)}.py"
