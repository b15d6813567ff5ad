"""The documentation site has the scripts to which pages link as ``../FOLDER/NAME.py``: of the findings, and the probes."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_FOLDERS = ("fixtures/reproducers/", "conformance/probes/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the scripts to the files of the site."""
    root = Path(config.config_file_path).parent
    for path in sorted(path for folder in _FOLDERS for path in (root / folder).rglob("*.py")):
        files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let the links lead to the site's copy."""
    for folder in _FOLDERS:
        markdown = markdown.replace(f"](../{folder}", f"]({folder}")
    return markdown
