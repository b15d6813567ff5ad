"""The pages of the documentation, for the tests that hold them to the code."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from timm_conformance.cli import docs
from timm_conformance.families import FAMILIES

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


def _told(text: str) -> set[str]:
    """Families named by the first cells of a text's tables, with ``*``."""
    names = [name for cell in re.findall(r"^\| (.*?) \|", text, re.M) for name in re.findall(r"`([\w*]+)`", cell)]
    return {family for family in FAMILIES if any(fnmatchcase(family, name) for name in names)}


def compared_families() -> set[str]:
    """Families whose upstream's own model `nox -s upstream` runs, by docs/upstream.md."""
    return _told(PAGES["docs/upstream.md"].partition("## Without a package")[0])


def other_families() -> set[str]:
    """Families of which docs/upstream.md says what was run by hand, or what stands in."""
    return _told(PAGES["docs/upstream.md"].partition("## Without a package")[2])


def files(text: str) -> list[tuple[str, str]]:
    """Files whose text a page gives: a path at the end of a paragraph, and the block of Python below it."""
    return re.findall(r"`([\w/]+\.py)`[^`\n]*:\n\n```python\n(.*?)```", text, re.S)
