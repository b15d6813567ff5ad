"""``python -m tests.compat FOLDER PAGE``: compare what ran in each environment with the baseline, and write the page.

Exits with 1 if a verdict or a witness differs and no probe explains it, if a run or a test failed, or if nothing ran.
"""

from __future__ import annotations

import sys
from pathlib import Path

from timm_conformance.ledger.entries import DEFAULT_LEDGER, load_ledger

from . import environments, page


def main(folder: Path, path: Path) -> int:
    """Print a line for each environment, and write the page; returns the exit code."""
    found = page.rows(folder, environments.load(), load_ledger(DEFAULT_LEDGER))
    if found[0].record is None:
        print(f"{found[0].environment.name}: not run, {found[0].missing}; there is nothing to compare with")
        return 1
    for row in found:
        if row.record is None:
            print(f"{row.environment.name}: not run, {row.missing}")
            continue
        print(f"{row.environment.name}: {page.against(row)}")
        for line in row.unexplained:
            print(f"    {line}")
    page.write(found, path)
    return int(any(row.unexplained for row in found))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
