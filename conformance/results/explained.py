"""A failure in words, the same in every output: what should hold, what was asked, what came of it, what explains it."""

from __future__ import annotations

from .records import Failure

PAGE = "docs/invariants.md"


def told_of(invariant: str, failure: Failure) -> list[tuple[str, str]]:
    """Labels and texts of one failure, in order."""
    explanation = failure.explanation
    rows = [("should", explanation.meaning), ("file", explanation.file or failure.case.describe())]
    rows += [("call", explanation.call), ("problem", failure.message)]
    rows += [(label, line.removeprefix(label).strip()) for label, line in zip(("expected", "got"), explanation.numbers)]
    rows += [("diagnosis", explanation.diagnosis), ("timm", failure.same_as), ("page", f"{PAGE}#{invariant}")]
    return [(label, text) for label, text in rows if text]
