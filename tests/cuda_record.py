"""What a run of ``nox -s cuda`` saw, as the rows of docs/cuda.md.

``python -m tests.cuda_record FOLDER`` reads ``FOLDER/cpu`` and ``FOLDER/cuda``, the same run on both devices, and writes
``FOLDER/record.md``: device and versions, verdicts, times, and what differs between the two, verdicts as loaded values.
"""

from __future__ import annotations

import platform
import sys
from datetime import date
from pathlib import Path

import torch

from timm_conformance.report import publish
from timm_conformance.report.terminal import cell_counts, face
from timm_conformance.results.diffing import difference
from timm_conformance.results.records import Results


def rows(cpu: Results, cuda: Results, device: str) -> list[str]:
    """The two tables and what differs, as lines of Markdown."""
    header, differences = cuda.headers[0], difference(cpu, cuda)
    seconds = {name: found.footers[-1].seconds for name, found in (("CPU", cpu), ("CUDA", cuda))}
    lines = ["| date | device | torch, CUDA | Python | differences from the CPU |", "|---|---|---|---|---|"]
    versions = f"{header.torch}, {torch.version.cuda or torch.version.hip}"
    lines.append(f"| {date.today()} | {device} | {versions} | {header.python} | {len(differences)} |")
    lines += ["", "| target | CPU | CUDA |", "|---|---|---|"]
    for target in cuda.targets:
        told = [", ".join(face(*counted) for counted in cell_counts(found.of(target))) for found in (cpu, cuda)]
        lines.append(f"| {target} | {told[0] or 'not judged'} | {told[1] or 'not judged'} |")
    lines.append(
        f"| all, from start to end on {platform.machine()} | {seconds['CPU']:.0f} s | {seconds['CUDA']:.0f} s |"
    )
    return [
        *lines,
        "",
        *(f"- {d.target} {':'.join(filter(None, (d.family, d.invariant)))}: {d.text}" for d in differences),
    ]


def main(folder: Path) -> None:
    """Write the record."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"
    lines = rows(publish.read(folder / "cpu"), publish.read(folder / "cuda"), device)
    record = folder / "record.md"
    record.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"{record}: to be copied into docs/cuda.md")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
