"""The command line: a thin layer over plain functions. torch is imported only when a command needs it."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import click

from ..cases.fixtures import CHECKOUT
from ..errors import EXIT_INTERRUPTED, EXIT_PIPE_CLOSED, EXIT_USAGE, UserError

_REPEATED: dict[str, Any] = {"multiple": True, "metavar": "NAME"}


class _Group(click.Group):
    """Turns a user's mistake, and what the system refuses, into one line and exit code 2.

    An interrupt ends with 130, a reader of the output that went away with 141.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"timm-conformance: {error}", err=True)
            sys.exit(EXIT_USAGE)
        except KeyboardInterrupt:
            click.echo("timm-conformance: interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be written at the end
            sys.exit(EXIT_PIPE_CLOSED)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOENT):
                raise
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"timm-conformance: {where}{error.strerror}", err=True)
            sys.exit(EXIT_USAGE)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="timm-conformance")
def main() -> None:
    """Conformance suite for timm's Vision Transformer checkpoint loaders.

    Exit codes: 0 as expected; 1 new failure, or a ledger entry that no longer fails; 2 usage or environment;
    3 vacuous (an invariant met no case, or missed a regime it must meet, or results were cut off); 130 interrupted;
    141 pipe closed.
    """


@main.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--family", **_REPEATED, help="Judge this family only (repeatable).")
@click.option("--invariant", **_REPEATED, help="Judge this invariant only (repeatable).")
@click.option("--profile", default="gate", show_default=True, metavar="NAME", help="smoke, gate or deep.")
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), default="cpu", show_default=True)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default="cores",
    help="Worker processes at the same time.",
)
@click.option("--seed", type=int, show_default="0; with --minutes a random one", help="Seed of the drawn cases.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Hunt: judge rounds of cases with seeds from --seed upwards, until N minutes are over.",
)
@click.option("--releases", "specifier", metavar="SPEC", help="Judge every release that SPEC admits, e.g. '>=0.9'.")
@click.option("--shard", metavar="I/N", help="Judge the I-th of N shares of the work; `merge` combines the shares.")
@click.option(
    "--resume/--fresh",
    default=None,
    help="Continue with the results in DIR, or judge everything again [default: resume with --releases].",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=300,
    show_default=True,
    help="Stop a worker that reports nothing for so many seconds.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default="results", show_default=True, metavar="DIR"
)
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write JUnit XML.")
@click.option("--ledger", metavar="FILE|none", help="Ledger of known bugs [default: the project's].")
def run(targets: tuple[str, ...], **options: Any) -> None:
    """Judge TARGETs (default: timm==0.9.16 timm==1.0.31 reference), or every release that SPEC admits.

    A target is timm==VERSION, path:DIR, installed, reference, or loader:MODULE:FUNCTION.
    """
    from .run import RunOptions, run_targets

    sys.exit(run_targets(RunOptions(targets, **options)))


@main.command(name="list")
@click.argument("what", type=click.Choice(["families", "options", "invariants", "ledger", "releases"]))
@click.option("--family", **_REPEATED, help="List the options of this family only (repeatable).")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--ledger", metavar="FILE|none", help="Ledger to list [default: the project's].")
def list_(what: str, family: tuple[str, ...], form: str, ledger: str | None) -> None:
    """List families, the options that are drawn for them, invariants, ledger entries or cached releases."""
    from .listing import show

    show(what, family, form, ledger)


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="[ID|FILE|DIR]... TARGET...")
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), default="cpu", show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores")
@click.option("--timeout", type=click.FloatRange(1), default=300, show_default=True)
@click.option("--ledger", metavar="FILE|none", help="Ledger of known bugs [default: the project's].")
def replay(names: tuple[str, ...], **options: Any) -> None:
    """Replay stored witnesses on TARGETs: FAILS, FIXED or ERROR.

    ID is a ledger entry, FILE a witness that a run wrote, DIR a folder of witnesses. Without any of them, every ledger entry is
    replayed.
    """
    from .replay import replay_witnesses

    sys.exit(replay_witnesses(names, **options))


@main.command()
@click.argument("subject", metavar="ID|ISSUE|FILE")
@click.option(
    "--target", metavar="TARGET", help="Target to run the script on [default: a release that has the failure]."
)
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the script to FILE."
)
@click.option("--issue", is_flag=True, help="Write the text of an upstream report that contains the script.")
@click.option("--timeout", type=click.FloatRange(1), default=300, show_default=True)
@click.option("--ledger", metavar="FILE|none", help="Ledger of known bugs [default: the project's].")
def repro(subject: str, **options: Any) -> None:
    """Write a standalone script that reproduces a failure with torch and timm only.

    The script exits with 1 where the failure is present and with 0 where it is not. ID is a ledger entry, ISSUE the number
    of an upstream issue that the ledger names, FILE a witness that a run wrote. If torch is at fault, the script uses torch
    alone, and TARGET has no meaning.
    """
    from ..repro.command import repro as write

    sys.exit(write(subject, **options))


_FOLDER = click.Path(path_type=Path)


@main.command()
@click.argument("results", type=_FOLDER, metavar="DIR")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write JUnit XML.")
@click.option("--ledger", metavar="FILE|none", help="Ledger of known bugs [default: the project's].")
def report(results: Path, **options: Any) -> None:
    """Write summary.md and report.html again for the results in DIR, and show them."""
    from .results import report as write

    sys.exit(write(results, **options))


@main.command()
@click.argument("results", type=_FOLDER, nargs=-1, required=True, metavar="DIR...")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write JUnit XML.")
@click.option("--ledger", metavar="FILE|none", help="Ledger of known bugs [default: the project's].")
def merge(results: tuple[Path, ...], **options: Any) -> None:
    """Merge results: shards become one run; of two verdicts on the same thing, the later one counts."""
    from .results import merge as merge_folders

    sys.exit(merge_folders(results, **options))


@main.command()
@click.argument("old", type=_FOLDER, metavar="A")
@click.argument("new", type=_FOLDER, metavar="B")
@click.option("--format", "form", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True)
def diff(old: Path, new: Path, form: str) -> None:
    """Compare results A with later ones B: new failures (exit code 1), fixed, changed, newly not run."""
    from .results import diff as compare

    sys.exit(compare(old, new, form=form))


@main.command()
@click.argument("subject", metavar="FAMILY:INVARIANT|ID|FILE")
@click.option("--releases", "specifier", default=">=0.9", show_default=True, metavar="SPEC", help="Releases to search.")
@click.option("--every", is_flag=True, help="Judge every release, not only where the ends differ.")
@click.option("--profile", default="smoke", show_default=True, metavar="NAME", help="smoke, gate or deep.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores")
@click.option("--timeout", type=click.FloatRange(1), default=300, show_default=True)
@click.option("--ledger", metavar="FILE|none", help="Ledger of known bugs [default: the project's].")
def bisect(subject: str, **options: Any) -> None:
    """Find the releases between which an invariant, or a stored failure, starts or stops failing.

    FAMILY:INVARIANT is judged on drawn cases. ID, a ledger entry, and FILE, a witness, are replayed.
    """
    from .bisect import bisect as search

    sys.exit(search(subject, **options))


@main.command()
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="[default: the project's]"
)
@click.option("--family", "families", **_REPEATED, help="Only this family (repeatable).")
@click.option(
    "--check", is_flag=True, help="Compare the stored vectors with newly generated ones, within the tolerances."
)
def vectors(families: tuple[str, ...], out: Path | None, check: bool) -> None:
    """Write the golden vectors: tiny checkpoints of every family, with the tensors that a correct loader makes of them.

    With --check, exit code 1 means that a stored vector differs from the generated one.
    """
    from ..vectors.folder import command
    from ..vectors.selection import FOLDER

    if out is None and not check and CHECKOUT is None:
        raise UserError("the project's vectors are written in a checkout; write others with -o DIR")
    sys.exit(command(families, out or FOLDER, check))


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="CHECKPOINT")
@click.option("--model", required=True, metavar="NAME", help="Name of the timm model, as create_model takes it.")
@click.option("--patch-size", metavar="P|PxQ", help="Patch size to build the model with [default: the model's own].")
@click.option("--img-size", metavar="S|SxT", help="Image size to build the model with [default: the model's own].")
@click.option("--num-classes", type=click.IntRange(0), metavar="N", help="[default: the checkpoint's]")
@click.option("--in-chans", type=click.IntRange(1), metavar="C", help="[default: the checkpoint's]")
@click.option(
    "--option",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other argument of create_model, for example global_pool=avg (repeatable).",
)
@click.option(
    "--input-size", metavar="S|SxT", help="Image size the checkpoint was trained at [default: as the model declares]."
)
@click.option(
    "--entry",
    metavar="KEY.KEY",
    help="The entry of the file that holds the model's tensors [default: as timm opens it, else found].",
)
@click.option("--prefix", metavar="PREFIX.", help="What stands before the model's names [default: found].")
@click.option("--target", default="timm==1.0.31", show_default=True, metavar="TARGET")
@click.option(
    "--fix", metavar="OUT.safetensors", help="Write the checkpoint as the reference converts it, for a strict load."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--timeout", type=click.FloatRange(1), default=1800, show_default=True, help="Seconds the whole check may take."
)
@click.option("--ledger", metavar="FILE|none", help="Ledger of known bugs [default: the project's].")
def check(checkpoint: Path, **options: Any) -> None:
    """Check whether TARGET loads a CHECKPOINT of your own correctly (.safetensors, .pth, .pt, .bin, .npz).

    Exit code 0: TARGET loads what the reference loads; 1: it refuses the checkpoint or loads other values; 2: the checkpoint
    cannot be used.
    """
    from ..check.command import check as examine

    sys.exit(examine(checkpoint, **options))


@main.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="GLOB",
    help="Only functions whose name matches GLOB (repeatable).",
)
@click.option("--family", "families", **_REPEATED, help="Judge only with the cases of this family (repeatable).")
@click.option("--profile", default="gate", show_default=True, metavar="NAME", help="smoke, gate or deep.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the drawn cases.")
@click.option(
    "--sample", type=click.IntRange(0), default=0, metavar="N", help="Judge N mutants drawn at random [default: all]."
)
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores")
@click.option("--listed", is_flag=True, help="Judge mutants that are listed as equivalent on every case, not on a few.")
@click.option(
    "--resume/--fresh",
    help="Continue the run in DIR: judge the missing mutants, and the survivors again. [default: fresh]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="results/mutants",
    show_default=True,
    metavar="DIR",
)
@click.option("--ledger", metavar="FILE|none", help="Ledger of known bugs [default: the project's].")
def mutants(targets: tuple[str, ...], **options: Any) -> None:
    """Change TARGETs' loaders in a few thousand small ways, and show which changes are detected (default: timm==1.0.31).

    Exit code 0: every mutant is killed, or listed as equivalent; 1: some survived. Each survivor is shown with its changed line.
    """
    from ..mutation.command import mutants as judge

    sys.exit(judge(targets or ("timm==1.0.31",), **options))


@main.command()
def doctor() -> None:
    """Show the environment: versions, shims in use, cached releases, CUDA devices."""
    from .doctor import examine

    sys.exit(examine())


if __name__ == "__main__":
    main()
