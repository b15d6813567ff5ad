"""The documentation site has the scripts of the findings, to which pages link as ``../fixtures/reproducers/NAME.py``."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_SCRIPTS = "fixtures/reproducers/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the scripts to the files of the site."""
    root = Path(config.config_file_path).parent
    for path in sorted((root / _SCRIPTS).rglob("*.py")):
        files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let the links lead to the site's copy."""
    return markdown.replace(f"](../{_SCRIPTS}", f"]({_SCRIPTS}")
