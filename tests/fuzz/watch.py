"""One piece of work in a process of its own, watched: what it said, and whether it crashed, hung or filled the memory."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from timm_conformance.errors import UserError
from timm_conformance.reference import LoadError

ROOT = Path(__file__).resolve().parents[2]
_OURS = tuple(str(ROOT / package) + os.sep for package in ("conformance", "reference"))
# Beyond what may be used, so that a blow-up shows as one and still stops before the machine suffers.
_HEADROOM = 8


@dataclass(frozen=True)
class Limits:
    """What an input may take: seconds of processor time, and bytes beyond what the process had."""

    seconds: float = 10
    memory: int = 512 * 2**20


LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """How work ended: ``done``, ``refused`` (in one line, :class:`UserError` or :class:`LoadError`), or as a finding.

    Findings are ``raised`` (any other exception), ``muttered`` (a refusal that is no single line), ``hung``, ``grew`` and
    ``died``. ``where`` tells findings of a kind apart: the exception and our innermost function. ``text`` is what there is
    to read: what work returned, the line, the traceback.
    """

    kind: str
    where: str = ""
    text: str = ""

    @property
    def is_finding(self) -> bool:
        """Whether our code did what it must not do on any input."""
        return self.kind not in ("done", "refused")


class _Hung(BaseException):
    """Raised where the process is when its time is up; no handler of exceptions catches it."""


class Watch:
    """A forked process that does ``work`` on one text after another; a new one wherever the last did not survive.

    Seconds are of processor time, so that a busy machine makes nothing hang; what waits for ever takes none, and is given up
    after six times as many. Memory is what the process's peak rises by.
    """

    def __init__(self, work: Callable[[str], str], limits: Limits = LIMITS) -> None:
        self.work = work
        self.limits = limits
        self._child: int | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def do(self, text: str) -> Outcome:
        """Do the work on ``text``."""
        if self._child is None:
            self._start()
        os.write(self._requests, text.encode() + b"\n")
        content = b""
        while not content.endswith(b"\n"):
            if not select.select([self._replies], [], [], self.limits.seconds * 6)[0]:
                self._end()
                return Outcome("hung", text="it waits for something")
            part = os.read(self._replies, 2**16)
            if not part:
                return Outcome("died", text=f"exit status {self._end()}")
            content += part
        grown, outcome = json.loads(content)
        if outcome["kind"] == "hung" or grown > self.limits.memory:
            self._end()
        return Outcome("grew", text=f"{grown >> 20} MiB") if grown > self.limits.memory else Outcome(**outcome)

    def _start(self) -> None:
        (reading, self._requests), (self._replies, writing) = os.pipe(), os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._requests)
            os.close(self._replies)
            self._serve(reading, writing)
        os.close(reading)
        os.close(writing)

    def _end(self) -> int:
        """End the process where it has not ended yet; returns its exit status, negative for a signal."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        os.close(self._requests)
        os.close(self._replies)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _serve(self, reading: int, writing: int) -> None:
        """The child's side, which ends without unwinding the parent's stack."""

        def hung(*_: object) -> None:
            raise _Hung

        gc.freeze()  # to collect what is the parent's would be to copy it
        signal.signal(signal.SIGPROF, hung)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _HEADROOM * self.limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for line in os.fdopen(reading):
            before = peak()
            outcome = self._outcome(line.removesuffix("\n"))
            os.write(writing, json.dumps([peak() - before, outcome.__dict__]).encode() + b"\n")
        os._exit(0)

    def _outcome(self, text: str) -> Outcome:
        try:
            signal.setitimer(signal.ITIMER_PROF, self.limits.seconds)
            try:
                return Outcome("done", text=self.work(text))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except (UserError, LoadError) as error:
            said = str(error)
            return Outcome("refused" if said and said.isprintable() else "muttered", _innermost(error), said)
        except BaseException as error:  # findings are what nobody foresaw
            kind = "hung" if isinstance(error, _Hung) else "raised"
            return Outcome(kind, f"{type(error).__name__} in {_innermost(error)}", traceback.format_exc())


def watched(work: Callable[[], str], limits: Limits = LIMITS) -> Outcome:
    """Do one piece of ``work`` in a process of its own."""
    with Watch(lambda _: work(), limits) as watch:
        return watch.do("")


def peak() -> int:
    """The most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _innermost(error: BaseException) -> str:
    """The innermost function of ours on the traceback; Python's name for a comprehension is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(_OURS)]
    named = [f.name for f in frames if not f.name.startswith("<")]
    return named[-1] if named else "no function of ours"
