"""``timm-conformance mutants``: counts the small mistakes in a loader that the suite detects."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from ..cases.fixtures import CHECKOUT
from ..cases.profiles import profile as profile_of
from ..errors import EXIT_EXPECTED, EXIT_FAILURE, UserError, choose
from ..families import FAMILIES
from ..ledger.entries import DEFAULT_LEDGER, load_ledger
from ..ledger.witnesses import file_name
from ..report.terminal import make_console
from ..targets.subprocess_call import environment, exit_reason
from ..targets.target import parse_target
from .protocol import Request, WorkerMessage
from .score import Judged, Mutant, Score

LINES = "mutants.ndjson"
_REPORT_EVERY = 500  # mutants, where there is no terminal to show progress on


def mutants(
    targets: Sequence[str],
    *,
    functions: Sequence[str],
    families: Sequence[str],
    profile: str,
    seed: int,
    sample: int,
    jobs: int,
    listed: bool,
    resume: bool,
    out: Path,
    ledger: str | None,
) -> int:
    """Judge the mutants of each target, and write their matrix below ``out``.

    Returns 0 if every mutant that is not equivalent was killed, otherwise 1.
    """
    if find_spec("mutmut") is None:
        raise UserError("mutants takes its operators from mutmut: pip install 'timm-conformance[mutants]'")
    from .mutmut_internals import operators

    operators()  # before any worker starts
    profile_of(profile)
    known_bugs = ledger or str(DEFAULT_LEDGER)
    load_ledger(known_bugs)
    chosen = choose("family", families, FAMILIES)
    for spec in targets:
        parse_target(spec)
    console = make_console()
    codes = []
    if "reference" in targets and CHECKOUT is None:
        console.print("reference: only a checkout has the project's own tests; cases alone judge the mutants here")
    for spec in targets:
        folder = out / file_name(spec)
        folder.mkdir(parents=True, exist_ok=True)
        earlier = str(folder / LINES) if resume and (folder / LINES).is_file() else ""
        request = Request(
            spec, chosen, list(functions) or ["*"], profile, seed, sample, jobs, listed, known_bugs, earlier
        )
        codes.append(_publish(_judge(request, folder / LINES, console), folder, console))
    return max(codes)


def _judge(request: Request, lines: Path, console: Console) -> Score:
    """Judge all mutants. Each is written to ``lines`` as soon as it is judged, so that a killed run loses nothing."""
    counts, reported = {}, 0
    judged: dict[Mutant, Judged] = {}  # the last message about a mutant counts
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=console, transient=True, disable=not console.is_terminal))
        task = progress.add_task(f"{request.target}: every case on the clean loader", total=None)
        try:
            for message in _messages(request):
                if message.judged is None:
                    counts, file = message.functions, stack.enter_context(open(lines, "wb"))
                    cases = f"{request.target}: {sum(counts.values())} mutants, {message.cases} cases and witnesses"
                    console.print(cases)
                    progress.update(task, description=request.target, total=sum(counts.values()))
                else:
                    judged[message.judged.mutant] = message.judged
                    file.write(_line(message.judged))
                    file.flush()
                    progress.update(task, completed=len(judged))
                    if not console.is_terminal and len(judged) // _REPORT_EVERY > reported:
                        reported = len(judged) // _REPORT_EVERY
                        console.print(f"{request.target}: {reported * _REPORT_EVERY} judged")
        except KeyboardInterrupt:
            console.print("interrupted: what was judged is reported", style="yellow")
    return Score(request.target, counts, judged.values())


def _messages(request: Request) -> Iterator[WorkerMessage]:
    """The messages of the target's worker as they arrive. Raises :class:`UserError` with the reason if the worker fails."""
    with tempfile.TemporaryDirectory(prefix="timm-conformance-") as folder:
        asked, log = Path(folder) / "request.json", Path(folder) / "log"
        asked.write_bytes(msgspec.json.encode(request))
        command = [sys.executable, "-m", "timm_conformance.mutation.worker", str(asked)]
        with open(log, "wb") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment())
        assert process.stdout is not None  # a pipe
        try:
            for line in process.stdout:
                yield msgspec.json.decode(line, type=WorkerMessage)
            if process.wait():
                words = exit_reason(log.read_text(errors="replace"), process.returncode, "the worker")
                raise UserError(f"mutants of {request.target}: {words}")
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def _line(judged: Judged) -> bytes:
    return msgspec.json.encode(judged) + b"\n"


def _publish(score: Score, folder: Path, console: Console) -> int:
    from .report import markdown, page, show

    (folder / LINES).write_bytes(b"".join(map(_line, score.judged)))
    (folder / "mutants.md").write_text(markdown(score), encoding="utf-8")
    (folder / "mutants.html").write_text(page(score), encoding="utf-8")
    show(score, console)
    console.print(f"kill matrix: {folder / 'mutants.html'}")
    clean = score.complete and not (score.counts["survived"] or score.counts["refuted"] or score.mistakes)
    return EXIT_EXPECTED if clean else EXIT_FAILURE
