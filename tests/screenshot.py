"""Retake the picture of report.html: ``python -m tests.screenshot RESULTS_DIR docs/images/report.png [FAMILY TARGET]``.

Light, 1280 pixels wide: the headline, the heat map, and one cell opened.
"""

from __future__ import annotations

import sys
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger
from timm_conformance.report.html import render
from timm_conformance.results import records

from .browser import chromium, look, missing

WIDTH, HEIGHT = 1280, 1100
# The map ends with the picture, and the opened cell stands high enough to be read, with families above it.
_ARRANGE = """
const frame = document.getElementById("frame"), row = document.getElementById("opened");
scrollTo(0, 0);
frame.style.maxHeight = `${innerHeight - frame.getBoundingClientRect().top - 10}px`;
frame.scrollTop = row.offsetTop - 330;
"""


def take(folder: Path, picture: Path, family: str, target: str) -> None:
    """Write a PNG of the report of ``folder/results.ndjson`` with the cell of ``family`` and ``target`` open."""
    collected = records.Results(records.read(folder / "results.ndjson"))
    with TemporaryDirectory() as scratch, chromium() as driver:
        page = Path(scratch) / "report.html"
        page.write_text(render(collected, load_ledger(DEFAULT_LEDGER)), encoding="utf-8")
        look(driver, WIDTH, HEIGHT)
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        driver.get(f"{page.as_uri()}#{urlencode({'cell': f'{family} {target}'})}")
        driver.execute_script(_ARRANGE)
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(b64decode(shot["data"]))


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    take(Path(sys.argv[1]), Path(sys.argv[2]), *(sys.argv[3:5] or ("openai_clip", "timm==0.9.16")))
