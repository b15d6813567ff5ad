"""The worker of a target: judges every case once on the clean loader, then each mutant in a forked copy of itself.

``python -m timm_conformance.mutation.worker REQUEST`` takes JSON and writes JSON lines: the number of mutants, then each mutant
with its fate as it is judged. If it cannot start, the reason is its last line of output, after ``ERROR:``.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from ..errors import EXIT_EXPECTED, EXIT_USAGE, cannot_start
from .protocol import Request, WorkerMessage
from .score import Fate, Judged, Mutant, read

# Cases for a mutant that is listed as equivalent: enough to find an entry that is plainly wrong.
_LISTED = 12
# A fork costs as much as a mutant.
_BATCH = 8
# A mutant may take so many seconds, plus so many times what its cases took on the clean loader.
_PATIENCE, _TIMES = 10, 4


def serve(request: Request, send: Callable[[WorkerMessage], None]) -> None:
    """Judge the mutants."""
    from ..cases.profiles import profile
    from ..drawing.drawing import Drawing
    from ..engine.session import judging_settings
    from ..ledger.entries import load_ledger
    from ..targets.loader import Loader
    from ..targets.target import parse_target, prepare
    from . import equivalents
    from .forks import each
    from .killing import Candidate, MutantJudge

    target = parse_target(request.target)
    prepare(target)
    drawing = Drawing(profile(request.profile), request.seed, focused=False)
    with judging_settings():
        subject = MutantJudge(Loader(target), load_ledger(request.ledger), drawing, request.families)
        subject.prepare()
        mutants = subject.mutants(lambda name: any(fnmatchcase(name, pattern) for pattern in request.functions))
        if request.sample:
            mutants = random.Random(request.seed).sample(mutants, min(request.sample, len(mutants)))
        entries = equivalents.load(release=subject.loader.release)
        reasons = {mutant: equivalents.reason(mutant, entries) for mutant in mutants}
        every = subject.mutants(lambda name: True) if request.earlier else []
        earlier = {m: Judged(m, fate, equivalents.reason(m, entries)) for m, fate in _fates(request.earlier, every)}
        kept = [j for m, j in earlier.items() if m not in reasons or j.outcome in ("killed", "equivalent")]
        done = {j.mutant for j in kept}
        left = sorted((m for m in mutants if m not in done), key=earlier.__contains__)  # survivors last
        counts = Counter([*(j.mutant.function for j in kept), *(m.function for m in left)])
        send(WorkerMessage(dict(counts), len(subject.candidates)))
        for judged in kept:
            send(WorkerMessage(judged=judged))

        def first(mutant: Mutant) -> list[Candidate]:
            reached = subject.reached(mutant)
            return reached[:_LISTED] if reasons[mutant] and not request.listed else subject.quickest(reached)

        def judge_each(some: list[Mutant], cases: Callable[[Mutant], list[Candidate]]) -> Iterator[Judged]:
            """Judge each, and send what became of it."""

            def seconds(mutant: Mutant) -> float:
                return _PATIENCE + _TIMES * sum(candidate.seconds for candidate in cases(mutant))

            for mutant, answer, end in each(
                lambda m: subject.judge_mutants(m, cases), some, request.jobs, seconds, _BATCH
            ):
                fate = Fate(reached=len(cases(mutant)), end=end) if end else msgspec.convert(answer, Fate)
                judged = Judged(mutant, fate, reasons[mutant])
                send(WorkerMessage(judged=judged))
                yield judged

        gc.collect()
        gc.freeze()
        survivors = [j.mutant for j in judge_each(left, first) if j.outcome == "survived"]
        more = [m for m in survivors if len(first(m)) < len(subject.reached(m))]
        deque(judge_each(more, subject.reached), maxlen=0)


def _fates(earlier: str, mutants: Iterable[Mutant]) -> Iterator[tuple[Mutant, Fate]]:
    """The mutants that an earlier run judged, with their fates. A function may have moved within its file since."""
    there = {(m.function, m.source): m for m in mutants}
    for judged in read(Path(earlier)) if earlier else ():
        mutant = there.get((judged.mutant.function, judged.mutant.source))
        if mutant is not None:
            yield mutant, judged.fate


def main() -> int:
    """Serve the request of the command line; returns the exit code."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # timm prints

    def send(message: WorkerMessage) -> None:
        out.write(msgspec.json.encode(message) + b"\n")
        out.flush()

    try:
        serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request), send)
    except Exception as error:
        print(f"ERROR: {cannot_start(error)}", file=sys.stderr, flush=True)
        return EXIT_USAGE
    return EXIT_EXPECTED


if __name__ == "__main__":
    sys.exit(main())
