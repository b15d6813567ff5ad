"""``python -m timm_conformance.bench``: measures, shows, and writes ``bench.json`` and ``bench.md``.

The measured times do not affect the exit code.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import click
import msgspec

from ..errors import EXIT_EXPECTED, EXIT_USAGE, UserError, choose
from ..families import FAMILIES
from ..report import publish
from ..report.terminal import make_console
from ..targets import releases
from ..targets.target import MODEL_RELEASE, parse_target, prepare
from . import first_verdict, overhead, resampling, scaling
from .part import Part, markdown, table
from .subject import CHANGES

PARTS = ("overhead", "resampling", "first-verdict", "scaling")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="This part only (repeatable).")
@click.option(
    "--releases", "specifier", metavar="SPEC", help="Compare with every release that SPEC admits, e.g. '>=1.0.30'."
)
@click.option(
    "--size", "sizes", multiple=True, metavar="NAME", help="Resample at this size only, e.g. 'B/16 → 8' (repeatable)."
)
@click.option("--target", default=f"timm=={MODEL_RELEASE}", show_default=True, help="Target whose gate is measured.")
@click.option("--family", "families", multiple=True, metavar="NAME", help="Judge this family only (repeatable).")
@click.option(
    "--rounds", type=click.IntRange(1), metavar="N", help="Rounds of each comparison [default: 3, resampling 7]."
)
@click.option(
    "--quick",
    is_flag=True,
    help="One round and fewer cases: shows that the benchmark runs; the times are not to be quoted.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="results/bench", show_default=True)
def main(
    only: tuple[str, ...],
    specifier: str | None,
    sizes: tuple[str, ...],
    target: str,
    families: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    out: Path,
) -> None:
    """Measure the cost of the harness, the speed of the reference, the time to the first verdicts, and how a run scales."""
    try:
        known = choose("family", families, FAMILIES)
        chosen = releases.matching(specifier)[0] if specifier else list(resampling.RELEASES)
        asked = choose("size", sizes, [c.name for c in CHANGES])
        prepare(parse_target(target))
        publish.make_folder(out)
        few = rounds or (1 if quick else 3)
        measure = {
            "overhead": lambda: overhead.measure(target, known, bool(families), few, quick),
            "resampling": lambda: resampling.compare(chosen, rounds or (2 if quick else 7), asked),
            "first-verdict": lambda: first_verdict.measure(few),
            "scaling": lambda: scaling.measure(target, known, chosen, quick),
        }
        console, parts = make_console(), []
        for name in choose("part", only, PARTS):
            for part in measure[name]():
                parts.append(part)
                console.print(table(part))
                for finding in part.findings:
                    console.print(f"  {finding}", markup=False, soft_wrap=True)
                _write(parts, out)
    except UserError as error:
        click.echo(f"timm_conformance.bench: {error}", err=True)
        sys.exit(EXIT_USAGE)
    console.print(f"written: {out / 'bench.json'}, {out / 'bench.md'}", markup=False, soft_wrap=True)
    sys.exit(EXIT_EXPECTED)


def _write(parts: list[Part], out: Path) -> None:
    """Write the results so far. Called after each part, so that an interrupted run keeps what was measured."""
    machine = f"{platform.machine()}, {overhead.CORES} cores, Python {platform.python_version()}"
    text = msgspec.json.format(msgspec.json.encode({"machine": machine, "parts": parts}))
    (out / "bench.json").write_bytes(text)
    (out / "bench.md").write_text(markdown(parts, machine), encoding="utf-8")


if __name__ == "__main__":
    main()
