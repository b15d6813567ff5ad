"""The pages of the documentation, for the tests that hold them to the code."""

from __future__ import annotations

import re
from pathlib import Path

from conformance import docs

ROOT = Path(__file__).resolve().parent.parent
_FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in _FILES}
# Those that are written by hand.
WRITTEN = {name: text for name, text in PAGES.items() if Path(name).name not in docs.PAGES}


def examples(text: str) -> set[str]:
    """Names that the Python of a page defines: its own families and invariants."""
    return {
        name.replace("_", "-") if kind == "def " else name for kind, name in re.findall(r'(def |name=")(\w+)', text)
    }


def files(text: str) -> list[tuple[str, str]]:
    """Files whose text a page gives: a path at the end of a paragraph, and the block of Python below it."""
    return re.findall(r"`([\w/]+\.py)`[^`\n]*:\n\n```python\n(.*?)```", text, re.S)
